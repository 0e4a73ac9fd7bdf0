"""Questions 1 and 2: each domain has its own statistics, and its own memory of them."""

import keras
import tensorflow as tf

from bnref import functional
from bnref._checks import whole_number
from bnref.functional._inputs import after
from bnref.functional._selected_moments import rows_of_domains
from bnref.layers._combining import extends
from bnref.layers.batch_norm import BatchNorm

__all__ = ["DomainBatchNorm"]


@keras.saving.register_keras_serializable(package="bnref")
class DomainBatchNorm(BatchNorm):
    r"""One batch normalization a domain, for batches in which the domains are mixed.

    .. math:: y_j = \gamma_k \frac{x_j - \mu_k}{\sqrt{\sigma_k^2 + \varepsilon}} + \beta_k,
              \qquad k = \text{domain of example } j

    Answers **question 1, whose statistics?**, differently: the examples of the same domain; and
    therefore **question 2** too: P, γ and β have a row a domain, and a domain that is not in the
    batch keeps its row as it was. Called as ``layer(x, domain=domain)``, with one whole number an
    example, in training and at inference.

    Shown in :doc:`/gallery/variants/plot_two_domains_in_one_batch`.

    Parameters
    ----------
    domains : int, ≥ 1
        Their number D.
    **kwargs
        As for `BatchNorm`.

    Attributes
    ----------
    gamma, beta, moving_mean, moving_variance : variable, shape (D, C)

    Raises
    ------
    ValueError, tf.errors.InvalidArgumentError
        ``domains`` is no whole number above 0; a call without ``domain``, with one of another
        shape or type, or with an index outside 0 … D − 1; else as `BatchNorm`.

    Notes
    -----
    Chang et al. 2019, arXiv 1906.03950, section 3 (domain-specific); Xie et al. 2020, arXiv
    1911.09665, section 4 (auxiliary), has one domain for clean and one for adversarial images.
    Both pass one domain at a time; here a batch may hold several, with the same result.
    """

    _fixed = False

    extra_inputs = ("domain",)

    def __init__(self, *, domains: int, **kwargs):
        super().__init__(**kwargs)
        self.domains = whole_number("domains", domains)

    def batch_moments(self, x, domain):
        """Whose statistics? The examples of the same domain in this replica's batch."""
        return functional.moments_of_domains(x, domain, self.domains)

    @extends
    def update_population(self, moments):
        """Remembered how? An exponential average for each domain, of its batches alone."""
        super().update_population(moments)  # a row whose count is 0 stays as it is

    def population_moments(self, domain):
        """The population of each example's domain."""
        rows = rows_of_domains(domain, self.domains)
        return super().population_moments()._replace(rows=rows)

    def call(self, inputs, training=None, mask=None, domain=None):
        """Normalize each example by its domain's moments."""
        if domain is None:
            raise ValueError("domain must be given, one whole number an example; received None")
        domain = tf.convert_to_tensor(domain)
        if not domain.dtype.is_integer or not domain.shape.is_compatible_with(inputs.shape[:1]):
            raise ValueError(
                f"domain must be whole numbers of shape {inputs.shape[:1]}, one an example; "
                f"received {domain.dtype.name} of shape {domain.shape}"
            )
        one_each = tf.debugging.assert_equal(
            tf.shape(domain), tf.shape(inputs)[:1], "domain must hold one whole number an example"
        )
        domain = after(one_each, domain)
        return super().call(inputs, training=training, mask=mask, domain=domain)

    def get_config(self):
        """Arguments that make an equal layer."""
        return {**super().get_config(), "domains": self.domains}

    def _memory_shape(self, channels):
        return (self.domains, channels)
