"""scikit-learn's perceptrons: the same numbers, faster; and estimators for tables.

    from ranvier.sklearn import MLPClassifier, MLPRegressor

Both are scikit-learn's own estimators, whose training runs in Ranvier's core. Everything else
(parameters, checks of input, warm starts, `partial_fit`, messages, warnings and what is printed) is
scikit-learn's. Initial weights, validation rows and each epoch's order are drawn from NumPy's
RandomState as there, so the same `random_state` gives the same training: coefficients and losses
agree to about 1e-12 after a hundred epochs in float64 (by "lbfgs" to 6e-9 after 50 evaluations of
the loss; later a search follows its rounding errors).

For that they keep scikit-learn's arithmetic where it differs from the rest of Ranvier: half the
squared error; the gradient summed over outputs, not their mean; alpha divided by the weight of each
batch; an epoch's loss as the mean over rows; probabilities clipped in the reported log-loss. There
are a few differences:

- sparse input is made dense for the training;
- a batch whose weights are all 0 is passed over (scikit-learn divides by 0);
- a training whose loss or parameters overflow ends there, without NumPy's warnings on the way:
  with scikit-learn's error or, with early stopping, with scores of NaN and the best coefficients;
- what is not finite is refused also under `assume_finite`, and so are words as targets of a
  regression, before the first step;
- on Ctrl-C the state so far is kept and KeyboardInterrupt is raised (scikit-learn goes on quietly).

Where the core refuses what scikit-learn takes, scikit-learn's own loop trains, at its pace:
negative weights, targets below 0 of the Poisson loss, a momentum of 1, subclasses with a
`_backprop`, `_compute_loss_grad` or `_forward_pass` of their own. In a series of `partial_fit` a
change from one loop to the other starts the moments anew.

What they have beyond scikit-learn's is keyword-only and changes nothing when it is not used: see
`MLPClassifier`, `MLPRegressor` and docs/moving-from-scikit-learn.md.

`TabularClassifier` and `TabularRegressor` follow Ranvier's own conventions: categories and missing
values, ensembles, intervals, and defaults that are chosen for accuracy on tables.

Needs scikit-learn 1.7 or newer: pip install 'ranvier[sklearn]'.
"""

from __future__ import annotations

try:
    import sklearn as _sklearn  # noqa: F401
except ImportError as _error:
    from ..errors import MissingDependencyError

    raise MissingDependencyError(
        "ranvier.sklearn needs scikit-learn: pip install 'ranvier[sklearn]'"
    ) from _error

from ._mlp import MLPClassifier, MLPRegressor
from ._tabular import TabularClassifier
from ._tabular_regressor import TabularRegressor

__all__ = ["MLPClassifier", "MLPRegressor", "TabularClassifier", "TabularRegressor"]
