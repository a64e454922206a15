"""Python layers as users of Caffe have written them; ``test_python_layers.py`` lets nets use them."""

import caffe
import numpy as np


class Euclidean(caffe.Layer):
    """Euclidean loss that keeps the difference between its two passes, as in Caffe's own example."""

    def setup(self, bottom, top):
        if len(bottom) != 2:
            raise Exception("two bottoms are needed")

    def reshape(self, bottom, top):
        if bottom[0].count != bottom[1].count:
            raise Exception("bottoms differ in size")
        self.diff = np.zeros_like(bottom[0].data, dtype=np.float32)
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.diff[...] = bottom[0].data - bottom[1].data
        top[0].data[...] = np.sum(self.diff**2) / bottom[0].num / 2.0

    def backward(self, top, propagate_down, bottom):
        for i, sign in enumerate([1, -1]):
            if propagate_down[i]:
                bottom[i].diff[...] = sign * top[0].diff[0] * self.diff / bottom[i].num


class Rows(caffe.Layer):
    """A data layer: counts its batches, ``param_str`` says how many rows they have."""

    def setup(self, bottom, top):
        self.rows, self.batch = int(self.param_str), 0

    def reshape(self, bottom, top):
        top[0].reshape(self.rows, 3)
        top[1].reshape(self.rows, 1)

    def forward(self, bottom, top):
        top[0].data[...] = np.arange(self.rows * 3).reshape(self.rows, 3) + self.batch
        top[1].data[...] = self.batch
        self.batch += 1

    def backward(self, top, propagate_down, bottom):
        pass


class Gain(caffe.Layer):
    """A learned factor (blob 0) and a count of forward passes (blob 1); phase TEST doubles the factor."""

    def setup(self, bottom, top):
        self.blobs.add_blob(1)
        self.blobs.add_blob(1)
        self.blobs[0].data[...] = 1.5

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        self.blobs[1].data[...] += 1
        top[0].data[...] = bottom[0].data * self.blobs[0].data * (2 if self.phase == caffe.TEST else 1)

    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[...] += np.sum(top[0].diff * bottom[0].data)
        if propagate_down[0]:
            bottom[0].diff[...] = top[0].diff * self.blobs[0].data


class Doubled(caffe.Layer):
    """Works in place."""

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        top[0].data[...] = 2 * bottom[0].data

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = 2 * top[0].diff


class Seen(caffe.Layer):
    """Only looks on; what it saw is in ``Seen.means``."""

    means = []  # noqa: RUF012

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        Seen.means.append(float(bottom[0].data.mean()))

    def backward(self, top, propagate_down, bottom):
        pass


class Broken(Doubled):
    """Fails where ``param_str`` says."""

    def forward(self, bottom, top):
        if self.param_str == "forward":
            raise ValueError("not today")
        if self.param_str == "shape":
            top[0].reshape(1, 1)
            return
        super().forward(bottom, top)

    def backward(self, top, propagate_down, bottom):
        if self.param_str == "backward":
            raise KeyError("gone")
        super().backward(top, propagate_down, bottom)


NOT_A_LAYER = 3
