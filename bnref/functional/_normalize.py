"""Normalizing by moments from anywhere; derivatives of any order, the first in closed form."""

from functools import partial

import tensorflow as tf
from tensorflow.python.eager import forwardprop_util

from bnref.functional import _formulas as formulas
from bnref.functional._inputs import TensorLike, checked
from bnref.functional._moments import Moments


def normalize(
    x: TensorLike, moments: Moments, gamma: TensorLike, beta: TensorLike, *, epsilon: float
) -> tf.Tensor:
    r"""Normalize each channel by the moments given, scale and shift it.

    .. math:: y = \gamma \hat x + \beta, \qquad \hat x = \frac{x - \mu}{\sqrt{\sigma^2+\varepsilon}}

    Where the moments are constants the gradient is :math:`dx_0 = \gamma\,dy/\sqrt{\sigma^2 +
    \varepsilon}`. Where they are those of the batch, every input moves them, and the chain rule
    through :math:`\mu` and :math:`\sigma^2` takes away the part of it that lies along 1 and along
    :math:`\hat x`. With A the average over the examples the moments come from:

    .. math::
        \frac{\partial\mu}{\partial x_j} = \frac1n, \quad
        \frac{\partial\sigma^2}{\partial x_j} = \frac{2 (x_j - \mu)}{n}
        \quad\Longrightarrow\quad
        dx = \frac{\gamma}{\sqrt{\sigma^2+\varepsilon}}
             \bigl(dy - A(dy) - \hat x\, A(dy\, \hat x)\bigr)

    and :math:`d\beta = \sum dy`, :math:`d\gamma = \sum dy\,\hat x`, which are the two sums that A
    needs anyway. Only x and vectors of C numbers are kept for the backward pass.

    The closed form holds the whole first derivative, so none is returned for μ and σ². It depends
    on x through them as well: to be differentiated again, it is taken by plain operations, in which
    μ and σ² are what `moments` computed from x. So derivatives of any order are right, in reverse
    and in forward mode; the second costs some three times the first, and only when asked for.

    Parameters
    ----------
    x : tensor or array, shape (N, ..., C)
    moments : Moments
        Treated as constants if ``moments.average`` is None, as functions of `x` otherwise.
    gamma, beta : tensor or array, shape (C,), or (G, C) like the moments' rows
        Like the moments float32, or float64 where `x` is.
    epsilon : float
        Added to the variance.

    Returns
    -------
    tensor of the shape and type of `x`

    Raises
    ------
    ValueError
        `x` is not floating point, or has fewer than two axes.

    Notes
    -----
    Ioffe & Szegedy 2015, arXiv 1502.03167, Algorithm 1, last two lines, and the gradients of
    section 3, summed up. r and d of batch renormalization are constants to derivatives of every
    order (Ioffe 2017, arXiv 1702.03275, section 3).
    """
    x = checked(x)
    mean, variance = moments.mean, moments.variance
    if moments.average is None:
        mean, variance = tf.stop_gradient(mean), tf.stop_gradient(variance)
    # A row for each row of the moments.
    gamma, beta = (each + tf.zeros_like(mean) for each in (gamma, beta))
    if moments.correction is not None:
        r, d = map(tf.stop_gradient, moments.correction)
        gamma, beta = gamma * r, gamma * d + beta
    by = moments._replace(mean=mean, variance=variance)
    if in_forward_mode([x, mean, variance, gamma, beta]):
        # Forward mode ignores custom gradients; it goes along plain operations.
        return formulas.normalized(x, by, gamma, beta, epsilon)
    if moments.average is None:
        # y is a straight line in x, which TensorFlow differentiates rightly by itself.
        return formulas.fastest(x, by)[0](x, by, gamma, beta, epsilon)
    return _normalized_by_batch(x, mean, variance, gamma, beta, by, epsilon)


def _normalized_by_batch(x, mean, variance, gamma, beta, moments, epsilon):
    """γ x̂ + β, with a first derivative in closed form that can be differentiated again."""
    forward, fastest = formulas.fastest(x, moments)

    @tf.custom_gradient
    def normalized(*inputs):
        def gradient(dy):
            dx, dgamma, dbeta = first_derivative(dy, *inputs[:4])
            return dx, None, None, dgamma, dbeta

        x, mean, variance, gamma, beta = _constants(inputs)
        by = moments._replace(mean=mean, variance=variance)
        return forward(x, by, gamma, beta, epsilon), gradient

    def first_derivative(*inputs):
        if in_forward_mode(inputs):
            return of(formulas.first_derivative, inputs)
        return first_derivative_by_kernels(*inputs)

    @tf.custom_gradient
    def first_derivative_by_kernels(*inputs):
        def gradient(*upstream):
            return of(partial(formulas.second_derivative, upstream), inputs)

        return of(fastest, _constants(inputs)), gradient

    def of(formula, inputs):
        dy, x, mean, variance, gamma = inputs
        return formula(dy, x, moments._replace(mean=mean, variance=variance), gamma, epsilon)

    return normalized(x, mean, variance, gamma, beta)


def in_forward_mode(tensors):
    """Whether a ``tf.autodiff.ForwardAccumulator`` differentiates along any of the tensors.

    In a graph it does not know ``tf.custom_gradient``: it goes through the operations inside. There
    is no public way to ask.
    """
    return bool(forwardprop_util.pack_tangents(list(tensors)).tangents)


def _constants(inputs):
    """Stop gradients at the inputs: theirs is given in full, and would be counted twice."""
    return [tf.stop_gradient(each) for each in inputs]
