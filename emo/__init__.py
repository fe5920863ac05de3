"""Multilabel emotion classifiers for social-media posts, trained and tuned on Ray.

Shapes are written with one legend throughout: B batch, N posts, K classes, M modalities,
D feature width, T tokens. *Logits* are unbounded, *probs* are their sigmoid in [0, 1], *targets*
are the shares of annotators in [0, 1], *thresholds* are compared with probs: a label is predicted
where ``prob >= threshold``.
"""

__version__ = "0.1.0"
