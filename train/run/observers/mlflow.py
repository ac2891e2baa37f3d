"""MLflow; its own variables (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME) say where a run goes."""

import os
from collections.abc import Mapping

from train.run.observers.base import Facts, Observer

_TAG = "pst_jax.run_id"
# The service takes no more of them at once, and no longer ones.
_MOST_PARAMS, _LONGEST = 100, 500
_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class Mlflow(Observer):
  def begin(self, facts: Facts) -> str:
    from mlflow import MlflowClient

    self._client = client = MlflowClient()
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "pst_jax")
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else client.create_experiment(name)
    runs = client.search_runs([experiment], f"tags.`{_TAG}` = '{facts.run_id}'", max_results=1)
    if runs:
      self._id = runs[0].info.run_id
      client.update_run(self._id, status="RUNNING")
    else:
      tags = {_TAG: facts.run_id}
      self._id = client.create_run(experiment, run_name=facts.name, tags=tags).info.run_id
    self._log_params(facts.config, runs[0].data.params if runs else {})
    return f"experiment {name}, run {self._id}"

  def _log_params(self, config: Mapping, logged: Mapping[str, str]) -> None:
    """Those that are new; a value that was logged cannot be changed, and a tag has the new one."""
    from mlflow.entities import Param, RunTag

    values = {name: str(value)[:_LONGEST] for name, value in config.items()}
    new = [Param(*each) for each in values.items() if each[0] not in logged]
    tags = [RunTag(n, v) for n, v in values.items() if logged.get(n, v) != v]
    for first in range(0, max(len(new), 1), _MOST_PARAMS):
      self._client.log_batch(self._id, params=new[first : first + _MOST_PARAMS], tags=tags)

  def write(self, number: int, step: int, time: float, values: Mapping[str, float]) -> None:
    from mlflow.entities import Metric

    # The same point twice, after a failure of which nobody knows how far it came, counts once.
    metrics = [Metric(name, value, int(1000 * time), step) for name, value in values.items()]
    self._client.log_batch(self._id, metrics=metrics)

  def close(self, status: str) -> None:
    self._client.set_terminated(self._id, _STATUS[status])
