"""Logistic regression on rows from HDF5, and a layer more where a line does not do."""

import os

import h5py
import numpy as np

import cosdask.pycaffe as caffe
from cosdask.pycaffe import layers as L

rng = np.random.RandomState(0)
X = rng.randn(800, 4).astype(np.float32)
y = ((X[:, 0] * X[:, 1] > 0) ^ (X[:, 2] > 1.5)).astype(np.float32)
X, Xt, y, yt = X[:600], X[600:], y[:600], y[600:]

dirname = os.path.abspath("./hdf5")
if not os.path.exists(dirname):
    os.makedirs(dirname)
train_filename = os.path.join(dirname, "train.h5")
test_filename = os.path.join(dirname, "test.h5")
with h5py.File(train_filename, "w") as f:
    f["data"] = X
    f["label"] = y
with open(os.path.join(dirname, "train.txt"), "w") as f:
    f.write(train_filename + "\n")
with h5py.File(test_filename, "w") as f:
    f.create_dataset("data", data=Xt, compression="gzip", compression_opts=1)
    f.create_dataset("label", data=yt, compression="gzip", compression_opts=1)
with open(os.path.join(dirname, "test.txt"), "w") as f:
    f.write(test_filename + "\n")


def logreg(hdf5, batch_size):
    n = caffe.NetSpec()
    n.data, n.label = L.HDF5Data(batch_size=batch_size, source=hdf5, ntop=2)
    n.ip1 = L.InnerProduct(n.data, num_output=2, weight_filler=dict(type="xavier"))
    n.accuracy = L.Accuracy(n.ip1, n.label)
    n.loss = L.SoftmaxWithLoss(n.ip1, n.label)
    return n.to_proto()


def nonlinear(hdf5, batch_size):
    n = caffe.NetSpec()
    n.data, n.label = L.HDF5Data(batch_size=batch_size, source=hdf5, ntop=2)
    n.ip1 = L.InnerProduct(n.data, num_output=24, weight_filler=dict(type="xavier"))
    n.relu1 = L.ReLU(n.ip1, in_place=True)
    n.ip2 = L.InnerProduct(n.ip1, num_output=2, weight_filler=dict(type="xavier"))
    n.accuracy = L.Accuracy(n.ip2, n.label)
    n.loss = L.SoftmaxWithLoss(n.ip2, n.label)
    return n.to_proto()


def learn_and_test(net):
    for phase in ("train", "test"):
        with open(f"hdf5/{phase}.prototxt", "w") as f:
            f.write(str(net(f"hdf5/{phase}.txt", 10)))
    s = caffe.proto.caffe_pb2.SolverParameter()
    s.train_net = "hdf5/train.prototxt"
    s.test_net.append("hdf5/test.prototxt")
    s.test_interval = 400
    s.test_iter.append(20)
    s.max_iter = 400
    s.base_lr = 0.05
    s.momentum = 0.9
    s.lr_policy = "step"
    s.gamma = 0.1
    s.stepsize = 300
    s.snapshot_prefix = "hdf5/train"
    s.random_seed = 4
    with open("hdf5/solver.prototxt", "w") as f:
        f.write(str(s))
    solver = caffe.get_solver("hdf5/solver.prototxt")
    solver.solve()
    accuracy = 0
    batch_size = solver.test_nets[0].blobs["data"].num
    test_iters = int(len(Xt) / batch_size)
    for _ in range(test_iters):
        solver.test_nets[0].forward()
        accuracy += solver.test_nets[0].blobs["accuracy"].data
    return accuracy / test_iters


linear_accuracy, nonlinear_accuracy = learn_and_test(logreg), learn_and_test(nonlinear)
