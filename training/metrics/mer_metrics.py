"""MER's metrics for `evaluate`, loaded by path, without the network:

```python
import evaluate

mood = evaluate.load("training/metrics/mer_metrics.py", "mood")
mood.compute(references=labels, predictions=probabilities)  # {"pr_auc": ..., "roc_auc": ..., "tags_scored": ...}
```

`evaluate` copies this file elsewhere before it runs it, so it imports the installed package by its name. Its import
scanner wants one import a line.
"""

import datasets
import evaluate
import mer.training.metrics as metrics

DESCRIPTION = "Music emotion recognition: quality of mood tags, of valence and arousal, and of quadrants."
INPUTS = """
Configurations, and what they take:
    "mood": references (n, tags) of 0 and 1, predictions (n, tags), probabilities
    "valence_arousal": references and predictions (n, 2), [valence, arousal] on one scale
    "quadrant": references (n,), 0 to 3 for Q1 to Q4, predictions (n, 2), [valence, arousal] on 1 to 9
Returns the dict of `mood_metrics`, `valence_arousal_metrics` or `quadrant_metrics` of mer.training.metrics.
"""
COMPUTE = {
    "mood": metrics.mood_metrics,
    "valence_arousal": metrics.valence_arousal_metrics,
    "quadrant": metrics.quadrant_metrics,
}


class MERMetrics(evaluate.Metric):
    """See `INPUTS`."""

    def _info(self):
        if self.config_name not in COMPUTE:
            raise ValueError(f"configuration must be one of {', '.join(COMPUTE)}, not {self.config_name!r}.")
        row = datasets.Sequence(datasets.Value("float32"))
        references = datasets.Value("int64") if self.config_name == "quadrant" else row
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"references": references, "predictions": row}),
        )

    def _compute(self, references, predictions):
        return COMPUTE[self.config_name](references, predictions)
