"""What Transformers' AutoConfig makes of a BLSP folder's config.json."""

from __future__ import annotations

import importlib
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

MODEL_TYPE = "blsp"


class BLSPConfig(PreTrainedConfig):
    """The values of config.json under their names there; `encoder` and `llm` are folders or hub names."""

    model_type = MODEL_TYPE

    def __init__(self, **values: Any):
        super().__init__(**values)
        # AutoModel and AutoProcessor look for the classes of a configuration that they hold: time to load torch and model.
        importlib.import_module("blsp.model.blsp")


AutoConfig.register(MODEL_TYPE, BLSPConfig)
