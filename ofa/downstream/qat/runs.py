"""The run in 8 bits: fine-tuning whose checkpoints, scores and export hold scales too."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ofa import dist
from ofa.config import QatConfig
from ofa.downstream.assemble import FinetuningRun
from ofa.downstream.qat.fake_quant import BITS
from ofa.downstream.qat.observers import Ranges
from ofa.downstream.qat.prepare import sites_of
from ofa.downstream.qat.pruner import KEY
from ofa.downstream.qat.quantisers import FakeQuantisers
from ofa.downstream.qat.training import QatTraining
from ofa.downstream.qat.weights import MeasuredScales
from ofa.export.quantization_file import QUANTIZATION_FILE, encode_scales
from ofa.models.task_models import build_task_model

LOG = logging.getLogger(__name__)


@dataclass
class QatRun(FinetuningRun):
    """A run on a task's rows, in 8 bits."""

    quantisers: FakeQuantisers = field(kw_only=True)
    """Of the model that is trained."""
    exported: FakeQuantisers | None = field(default=None, kw_only=True)
    """Of the one that is exported, once there is one."""
    module: QatTraining

    @property
    def asked(self) -> QatConfig:
        """The config as what it is."""
        assert isinstance(self.config, QatConfig)
        return self.config

    @property
    def made(self) -> str:
        """What the final table calls the model."""
        return f"trained in {BITS} bits"

    def _is_eligible(self, step: int) -> bool:
        """What was scored before quantisation began is another model."""
        return super()._is_eligible(step) and step > self.asked.quantization.begin_step

    def take_back(self, client_state: dict[str, Any]) -> None:
        """The ranges of the step whose weights are exported."""
        self.quantisers.load_state_dict(client_state["pruner"][KEY])

    def module_around(self, exported: PreTrainedModel) -> QatTraining:
        """The exported fp32 weights under their quantisers."""
        asked, device = self.asked.quantization, dist.device()
        nn.Module.to(exported, device)
        sites = sites_of(exported, asked)
        ranges = Ranges(sites.places(), constant=asked.observer_constant, device=device)
        self.exported = FakeQuantisers(exported, sites, ranges, MeasuredScales(asked, sites, device))
        self.exported.load_state_dict(self.quantisers.state_dict())
        ranges.check()
        return QatTraining(exported, self.data.task.kind, self.settings.objective, self.exported)

    def references(self) -> dict[str, PreTrainedModel]:
        """The float model that the run began with, unless its head was drawn."""
        data = self.data
        built = build_task_model(self.settings.model, data.task, data.labels, seed=self.settings.seed)
        if built.drawn:
            LOG.info("not scored in fp32 before training: %s had no task head", self.settings.model.init)
            return {}
        return {"fp32, before training in 8 bits": built.model.eval()}

    def side_files(self) -> dict[str, bytes]:
        """The scales."""
        assert self.exported is not None, "the model is scored before it is exported"
        return {QUANTIZATION_FILE: encode_scales(self.exported.scales())}

    def more_for_the_recipe(self) -> dict[str, Any]:
        """What is in 8 bits, and how many of the integers are 0."""
        assert self.exported is not None, "the model is scored before it is exported"
        zeros, weights = self.exported.zeros()
        sites = self.exported.sites
        block = {
            "bits": BITS,
            "file": QUANTIZATION_FILE,
            "linears": [site.name for site in sites.linears],
            "tables": list(sites.tables),
            "attentions": list(sites.attentions),
            "weights": weights,
            "int8_zeros": zeros,
        }
        return {"quantization": block}

    def more_for_the_result(self) -> dict[str, Any]:
        """Bits and preset, for results.jsonl."""
        return {"bits": BITS, "preset": self.asked.quantization.preset}
