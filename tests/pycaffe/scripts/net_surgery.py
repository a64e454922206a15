"""Net surgery: filters by hand, and a classifier cast into a fully convolutional net that gives a map of classes."""

import numpy as np

import cosdask.pycaffe as caffe

CONV = """
input: "data" input_shape { dim: 1 dim: 1 dim: 28 dim: 28 }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 3 kernel_size: 5 weight_filler { type: "gaussian" std: 0.01 } } }
"""
with open("conv.prototxt", "w") as f:
    f.write(CONV)

net = caffe.Net("conv.prototxt", caffe.TEST)
image = caffe.io.load_image("digit.png", color=False)[:, :, 0]
net.blobs["data"].reshape(1, 1, *image.shape)
net.blobs["data"].data[...] = image
net.forward()
conv0 = net.blobs["conv"].data.copy()
net.params["conv"][1].data[0] = 1.0
net.forward()
shifted = net.blobs["conv"].data.copy()

# a blur, and edges both ways
filters = net.params["conv"][0].data
i = np.exp(-0.5 * np.arange(-2, 3) ** 2)
filters[0] = np.outer(i, i)
sobel = np.zeros((5, 5))
sobel[1:-1, 1:-1] = [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
filters[1:] = [sobel[np.newaxis], sobel.T[np.newaxis]]
net.forward()
edges = net.blobs["conv"].data[0, 1:]

# from inner products to convolutions: the same numbers in another shape
net = caffe.Net("deploy.prototxt", "lenet.caffemodel", caffe.TEST)
params = ["fc1", "score"]
fc_params = {pr: (net.params[pr][0].data, net.params[pr][1].data) for pr in params}

net_full_conv = caffe.Net("full_conv.prototxt", "lenet.caffemodel", caffe.TEST)
params_full_conv = ["fc1-conv", "score-conv"]
conv_params = {pr: (net_full_conv.params[pr][0].data, net_full_conv.params[pr][1].data) for pr in params_full_conv}

for pr, pr_conv in zip(params, params_full_conv, strict=True):
    conv_params[pr_conv][0].flat = fc_params[pr][0].flat
    conv_params[pr_conv][1][...] = fc_params[pr][1]

net_full_conv.save("full_conv.caffemodel")

wide = np.concatenate([image, image], axis=1)
net_full_conv.blobs["data"].reshape(1, 1, *wide.shape)
out = net_full_conv.forward_all(data=wide[np.newaxis, np.newaxis])
classes = out["prob"][0].argmax(axis=0)
net.blobs["data"].data[...] = image
single = net.forward()["prob"][0]
