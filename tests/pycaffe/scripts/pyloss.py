"""A loss in NumPy, as a module of the user's own that asks for Caffe."""

import caffe
import numpy as np


class Distance(caffe.Layer):
    """Half the squared distance, averaged over rows."""

    def setup(self, bottom, top):
        if len(bottom) != 2:
            raise Exception("two bottoms are needed")

    def reshape(self, bottom, top):
        if bottom[0].count != bottom[1].count:
            raise Exception("the bottoms must be of one size")
        self.diff = np.zeros_like(bottom[0].data, dtype=np.float32)
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.diff[...] = bottom[0].data - bottom[1].data
        top[0].data[...] = np.sum(self.diff**2) / bottom[0].num / 2.0

    def backward(self, top, propagate_down, bottom):
        for i, sign in enumerate((1, -1)):
            if propagate_down[i]:
                bottom[i].diff[...] = sign * self.diff / bottom[i].num


class Numbers(caffe.Layer):
    """A data layer: rows 0, 1, 2, ... and their doubles."""

    def setup(self, bottom, top):
        self.at = 0

    def reshape(self, bottom, top):
        top[0].reshape(2, 1)
        top[1].reshape(2, 1)

    def forward(self, bottom, top):
        top[0].data[...] = [[self.at], [self.at + 1]]
        top[1].data[...] = 2 * top[0].data
        self.at = (self.at + 2) % 6

    def backward(self, top, propagate_down, bottom):
        pass
