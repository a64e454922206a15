"""A net whose data and loss are the user's own classes in NumPy, trained."""

import cosdask.pycaffe as caffe

caffe.install_as_caffe()
import pyloss  # noqa: E402, F401  (it says "import caffe")

NET = """
layer { type: "Python" name: "in" top: "x" top: "y" python_param { module: "pyloss" layer: "Numbers" } }
layer { type: "InnerProduct" name: "ip" bottom: "x" top: "ip" inner_product_param { num_output: 1
  weight_filler { type: "constant" value: 0 } } }
layer { type: "Python" name: "loss" bottom: "ip" bottom: "y" top: "loss" loss_weight: 1
  python_param { module: "pyloss" layer: "Distance" } }
"""
with open("linreg.prototxt", "w") as f:
    f.write(NET)
with open("linreg_twin.prototxt", "w") as f:
    f.write(
        NET.replace('"Python" name: "loss"', '"EuclideanLoss" name: "loss"').split(
            'python_param { module: "pyloss" layer: "Distance" }'
        )[0]
        + "}"
    )
with open("linreg_solver.prototxt", "w") as f:
    f.write(
        'net: "linreg.prototxt" base_lr: 0.02 lr_policy: "fixed" momentum: 0.5 max_iter: 150 snapshot_prefix: "linreg"'
    )

net = caffe.Net("linreg.prototxt", caffe.TRAIN)
twin = caffe.Net("linreg_twin.prototxt", caffe.TRAIN)
seen, grads = [], []
for one in (net, twin):
    one.params["ip"][0].data[...] = 0.5
    seen.append([float(one.forward()["loss"].sum()) for _ in range(3)])
    one.clear_param_diffs()
    one.backward()
    grads.append(one.params["ip"][0].diff.copy())

solver = caffe.SGDSolver("linreg_solver.prototxt")
solver.solve()
slope = solver.net.params["ip"][0].data.item()
caffe.uninstall_as_caffe()
