"""The same batch norm in other frameworks' words: momentum, epsilon, and what is stored.

`CONVENTIONS` says what each framework's numbers mean; `convert_momentum` and `convert_variance`
turn one into the other's, `port` a whole layer, `port_model` and `export_model` a whole model.
Nothing of the other frameworks is imported.

Measured on Keras, tf_keras, torch and flax (``conventions.csv`` among the recorded results, which
names the versions); read in the sources of Lasagne, Caffe (``batch_norm_layer.cpp``) and MXNet 1
(``batch_norm.cc``, its CPU version).

MXNet has two defaults more that are easily missed. The ε of its symbol is 1e-3, that of
``gluon.nn.BatchNorm`` 1e-5: say it by ``epsilon``. And the symbol has ``fix_gamma=True``: unless
its ``.json`` says False, γ counts as 1, whatever the file of weights has for it. Leave ``gamma``
out of the weights then.
"""

from bnref.conventions._converting import convert_momentum, convert_variance
from bnref.conventions._frameworks import CONVENTIONS, Convention
from bnref.conventions._models import export_model, port_model
from bnref.conventions._porting import port

__all__ = [
    "CONVENTIONS",
    "Convention",
    "convert_momentum",
    "convert_variance",
    "export_model",
    "port",
    "port_model",
]
