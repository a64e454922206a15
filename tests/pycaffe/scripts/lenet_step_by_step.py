"""Learning LeNet step by step: write the net, look at it, train it a step at a time, watch single digits."""

import numpy as np

import cosdask.pycaffe as caffe
from cosdask.pycaffe import layers as L
from cosdask.pycaffe import params as P


def lenet(lmdb, batch_size):
    n = caffe.NetSpec()
    n.data, n.label = L.Data(
        batch_size=batch_size, backend=P.Data.LMDB, source=lmdb, transform_param=dict(scale=1.0 / 255), ntop=2
    )
    n.conv1 = L.Convolution(n.data, kernel_size=5, stride=2, num_output=8, weight_filler=dict(type="xavier"))
    n.pool1 = L.Pooling(n.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.fc1 = L.InnerProduct(n.pool1, num_output=40, weight_filler=dict(type="xavier"))
    n.relu1 = L.ReLU(n.fc1, in_place=True)
    n.score = L.InnerProduct(n.fc1, num_output=10, weight_filler=dict(type="xavier"))
    n.loss = L.SoftmaxWithLoss(n.score, n.label)
    return n.to_proto()


with open("lenet_train.prototxt", "w") as f:
    f.write(str(lenet("train_lmdb", 50)))
with open("lenet_test.prototxt", "w") as f:
    f.write(str(lenet("test_lmdb", 60)))

s = caffe.proto.caffe_pb2.SolverParameter()
s.random_seed = 1
s.train_net = "lenet_train.prototxt"
s.test_net.append("lenet_test.prototxt")
s.test_interval = 500
s.test_iter.append(5)
s.max_iter = 10000
s.base_lr = 0.02
s.momentum = 0.9
s.weight_decay = 5e-4
s.lr_policy = "inv"
s.gamma = 0.0001
s.power = 0.75
s.display = 1000
s.snapshot = 5000
s.snapshot_prefix = "lenet"
with open("lenet_solver.prototxt", "w") as f:
    f.write(str(s))

caffe.set_mode_cpu()
solver = caffe.SGDSolver("lenet_solver.prototxt")

blob_shapes = [(k, v.data.shape) for k, v in solver.net.blobs.items()]
param_shapes = [(k, v[0].data.shape) for k, v in solver.net.params.items()]

first = solver.net.forward()
solver.test_nets[0].forward()
labels = solver.net.blobs["label"].data[:8].copy()
tiles = solver.net.blobs["data"].data[:8, 0].transpose(1, 0, 2).reshape(28, 8 * 28)

solver.step(1)
filters = solver.net.params["conv1"][0].diff[:, 0].reshape(2, 4, 5, 5).transpose(0, 2, 1, 3).reshape(2 * 5, 4 * 5)

niter, test_interval = 75, 25
train_loss = np.zeros(niter)
test_acc = np.zeros(int(np.ceil(niter / test_interval)))
output = np.zeros((niter, 8, 10))

for it in range(niter):
    solver.step(1)
    train_loss[it] = solver.net.blobs["loss"].data
    # the same eight test digits each time: begin after the data layer
    solver.test_nets[0].forward(start="conv1")
    output[it] = solver.test_nets[0].blobs["score"].data[:8]
    if it % test_interval == 0:
        correct = 0
        for _ in range(5):
            solver.test_nets[0].forward()
            correct += sum(solver.test_nets[0].blobs["score"].data.argmax(1) == solver.test_nets[0].blobs["label"].data)
        test_acc[it // test_interval] = correct / 300

solver.net.save("lenet.caffemodel")
