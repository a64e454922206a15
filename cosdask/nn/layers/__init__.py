"""The layer types, a module a family; importing this package registers them all."""

from cosdask.nn.layers import accuracy as accuracy
from cosdask.nn.layers import activations as activations
from cosdask.nn.layers import classification_losses as classification_losses
from cosdask.nn.layers import combining as combining
from cosdask.nn.layers import convolution as convolution
from cosdask.nn.layers import dropout as dropout
from cosdask.nn.layers import dummy_data as dummy_data
from cosdask.nn.layers import elementwise as elementwise
from cosdask.nn.layers import embedding as embedding
from cosdask.nn.layers import im2col as im2col
from cosdask.nn.layers import inner_product as inner_product
from cosdask.nn.layers import inputs as inputs
from cosdask.nn.layers import labeled as labeled
from cosdask.nn.layers import loss_terms as loss_terms
from cosdask.nn.layers import losses as losses
from cosdask.nn.layers import lrn as lrn
from cosdask.nn.layers import mvn as mvn
from cosdask.nn.layers import normalization as normalization
from cosdask.nn.layers import ops as ops
from cosdask.nn.layers import pair_losses as pair_losses
from cosdask.nn.layers import parameter as parameter
from cosdask.nn.layers import pooling as pooling
from cosdask.nn.layers import recurrent as recurrent
from cosdask.nn.layers import reduction as reduction
from cosdask.nn.layers import selection as selection
from cosdask.nn.layers import shaping as shaping
