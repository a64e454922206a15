"""A small net for the tests in this folder, over an HDF5 file of 22 rows."""

BATCH = 4
ROWS = 22
NET = f"""
name: "tiny"
layer {{ name: "data" type: "HDF5Data" top: "x" top: "y" hdf5_data_param {{ source: "rows.txt" batch_size: {BATCH} }} }}
layer {{ name: "ip1" type: "InnerProduct" bottom: "x" top: "ip1" PARAMS
  inner_product_param {{ num_output: 3 weight_filler {{ type: "xavier" }} bias_filler {{ value: 0.1 }} }} }}
layer {{ name: "tanh" type: "TanH" bottom: "ip1" top: "h" }}
layer {{ name: "ip2" type: "InnerProduct" bottom: "h" top: "ip2"
  inner_product_param {{ num_output: 2 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "EuclideanLoss" bottom: "ip2" bottom: "y" top: "loss" }}
"""
