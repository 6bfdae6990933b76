"""Looking inside a trained network: what moves its outputs, and which columns it needs.

- `input_gradients`: how fast an output changes with each feature, row by row.
- `integrated_gradients`: what each feature contributes to a row's output, compared with a baseline.
- `permutation_importance`: how much worse the model is without a column, over all rows.

Each takes a `ranvier.Sequential` or a fitted `MLPClassifier` or `MLPRegressor` of `ranvier.sklearn`
(of a pipeline, its last step and the transformed X; of an ensemble, one of its `estimators_`) and
gives arrays with the features' names, `to_pandas()` and `plot()`:

    >>> import ranvier as rv
    >>> X, y = rv.datasets.load_digits()
    >>> model = rv.Sequential([rv.Dense(32, activation="relu"), rv.Dense(10)])
    >>> history = model.fit(X, y, loss="cross_entropy", epochs=5)
    >>> seen = rv.inspection.integrated_gradients(model, X[:100], output=y[:100])
    >>> seen.values.shape
    (100, 64)

Gradients and contributions are those of a raw output (the logit of a class), or of a probability
with of="probability".

Other tools take the functions that predict as they are: `shap.Explainer(model.predict, X)`,
`shap.Explainer(classifier.predict_proba, X)`, and LIME's `explain_instance(row, predict)`. SHAP's
pictures take values from here too: `shap.plots.beeswarm(shap.Explanation(seen.values, data=X,
feature_names=seen.feature_names))`. `sklearn.inspection` takes the estimators, the tabular ones and
ensembles too.
"""

from ._attributions import (
    Attributions,
    InputGradients,
    IntegratedGradients,
    input_gradients,
    integrated_gradients,
)
from ._permutation import Importance, permutation_importance

__all__ = [
    "Attributions",
    "Importance",
    "InputGradients",
    "IntegratedGradients",
    "input_gradients",
    "integrated_gradients",
    "permutation_importance",
]
