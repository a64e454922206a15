"""Fine-tuning: the lower layers from a published model, a new last layer, trained beside one from scratch."""

import cosdask.pycaffe as caffe
from cosdask.pycaffe import layers as L
from cosdask.pycaffe import params as P


def conv_relu(bottom, nout, ks, stride, param):
    conv = L.Convolution(
        bottom, kernel_size=ks, stride=stride, num_output=nout, param=param, weight_filler=dict(type="xavier")
    )
    return conv


frozen = [dict(lr_mult=0), dict(lr_mult=0)]
learned = [dict(lr_mult=1, decay_mult=1), dict(lr_mult=2, decay_mult=0)]


def parity_net(source, train=True):
    n = caffe.NetSpec()
    n.data, n.label = L.Data(
        batch_size=50, backend=P.Data.LMDB, source=source, transform_param=dict(scale=1.0 / 255), ntop=2
    )
    n.conv1 = conv_relu(n.data, 8, 5, 2, frozen)
    n.pool1 = L.Pooling(n.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.fc1 = L.InnerProduct(n.pool1, num_output=40, param=frozen, weight_filler=dict(type="xavier"))
    n.relu1 = L.ReLU(n.fc1, in_place=True)
    n.fc_parity = L.InnerProduct(n.fc1, num_output=2, param=learned, weight_filler=dict(type="xavier"))
    n.loss = L.SoftmaxWithLoss(n.fc_parity, n.label)
    if not train:
        n.acc = L.Accuracy(n.fc_parity, n.label)
    name = "parity_%s.prototxt" % ("train" if train else "test")
    with open(name, "w") as f:
        f.write(str(n.to_proto()))
    return name


def solver(train_net, test_net):
    s = caffe.proto.caffe_pb2.SolverParameter(random_seed=2, type="SGD", lr_policy="step", gamma=0.1, stepsize=1000)
    s.train_net = train_net
    s.test_net.append(test_net)
    s.test_interval = 1000
    s.test_iter.append(6)
    s.max_iter = 1000
    s.base_lr = 0.02
    s.momentum = 0.9
    s.weight_decay = 5e-4
    s.snapshot_prefix = "parity"
    with open("parity_solver.prototxt", "w") as f:
        f.write(str(s))
    return "parity_solver.prototxt"


weights = "lenet.caffemodel"
file = solver(parity_net("parity_lmdb"), parity_net("parity_test_lmdb", train=False))
tuned, scratch = caffe.get_solver(file), caffe.get_solver(file)
tuned.net.copy_from(weights)
before = tuned.net.params["conv1"][0].data.copy()

losses = {"tuned": [], "scratch": []}
for _ in range(40):
    for name, one in (("tuned", tuned), ("scratch", scratch)):
        one.step(1)
        losses[name].append(one.net.blobs["loss"].data.copy())


def accuracy(one, batches=6):
    one.net.save("parity.caffemodel")
    test = caffe.Net("parity_test.prototxt", "parity.caffemodel", caffe.TEST)
    return sum(test.forward()["acc"] for _ in range(batches)) / batches


tuned_accuracy, scratch_accuracy = accuracy(tuned), accuracy(scratch)
after = tuned.net.params["conv1"][0].data
