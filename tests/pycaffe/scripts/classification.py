"""Classification: preprocess a picture, classify it, look into the net, use other batch sizes."""

import numpy as np

import cosdask.pycaffe as caffe

caffe.set_mode_cpu()
net = caffe.Net("deploy.prototxt", "lenet.caffemodel", caffe.TEST)

transformer = caffe.io.Transformer({"data": net.blobs["data"].data.shape})
transformer.set_transpose("data", (2, 0, 1))
transformer.set_mean("data", np.zeros(1))
transformer.set_raw_scale("data", 1)

net.blobs["data"].reshape(10, 1, 28, 28)
image = caffe.io.load_image("digit.png", color=False)
net.blobs["data"].data[...] = transformer.preprocess("data", image)

output = net.forward()
output_prob = output["prob"][0]
predicted = output_prob.argmax()
top = output_prob.argsort()[::-1][:5]

activations = [(name, blob.data.shape) for name, blob in net.blobs.items()]
weights = [(name, param[0].data.shape, param[1].data.shape) for name, param in net.params.items()]
filters = net.params["conv1"][0].data.transpose(0, 2, 3, 1)
feat = net.blobs["conv1"].data[0, :4]
hidden = net.blobs["fc1"].data[0]

classifier = caffe.Classifier("deploy.prototxt", "lenet.caffemodel", image_dims=(32, 32))
several = classifier.predict([image, caffe.io.resize_image(image, (40, 40))], oversample=True)
centre = caffe.Classifier("deploy.prototxt", "lenet.caffemodel").predict([image], oversample=False)
