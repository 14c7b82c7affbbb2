"""What the work of a request costs and how long it takes, and price lists."""

from __future__ import annotations

import datetime
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from selfroute.errors import ConfigError
from selfroute.evaluation.counting.metrics import Floats
from selfroute.evaluation.counting.work import Work
from selfroute.network.link import Network
from selfroute.prices import Price, Prices
from selfroute.shipped import recipe_file

__all__ = ["PriceTable", "latency_s", "load_prices", "usd"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceTable:
    """Prices of both sides, and when and where they were looked up.

    Attributes:
        as_of: the date, ISO 8601.
        source: where they stand, free text.
        device_model, cloud_model: entries of the list that were taken.
    """

    prices: Prices = field(default_factory=Prices)
    as_of: str = ""
    source: str = ""
    device_model: str = ""
    cloud_model: str = ""


# --- prices ----------------------------------------------------------------------------------------------------


def load_prices(path: Path, *, device: Sequence[str], cloud: Sequence[str]) -> PriceTable:
    """Prices of the two models from a YAML file::

        as_of: 2026-11-01
        source: https://…
        models:
          gpt-4o: {prompt_usd: 2.50, completion_usd: 10.00}   # USD per million tokens
          device: {prompt_usd: 0, completion_usd: 0}

    Args:
        device, cloud: names to look under, best first, e.g. the backend's name and then the role.

    Raises:
        ConfigError: the file is missing, has no date or another shape, or lists neither name of a side.
    """
    values = _read(path)
    table = PriceTable(as_of=_date(path, values), source=str(values.get("source", "")))
    models = values.get("models")
    if not isinstance(models, Mapping) or not models:
        raise ConfigError(f"{path}: 'models' is missing or empty; list models with prompt_usd and completion_usd")
    device_model, cloud_model = (_listed(path, models, names) for names in (device, cloud))
    prices = Prices(
        device=_price(path, device_model, models[device_model]), cloud=_price(path, cloud_model, models[cloud_model])
    )
    return PriceTable(
        prices=prices, as_of=table.as_of, source=table.source, device_model=device_model, cloud_model=cloud_model
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(recipe_file(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"price table '{path}' does not exist; `selfroute recipes prices` shows an example") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"price table '{path}' cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"price table '{path}' is not a mapping; `selfroute recipes prices` shows an example")
    known = ("as_of", "source", "models")
    for key in values:
        if key not in known:
            raise ConfigError(f"{path}: unknown key '{key}'; known: {', '.join(known)}")
    return values


def _date(path: Path, values: Mapping[str, Any]) -> str:
    found = values.get("as_of")
    if not isinstance(found, datetime.date):
        raise ConfigError(f"{path}: as_of is {found!r}, not a date; prices change, write e.g. as_of: 2026-11-01")
    return found.isoformat()


def _listed(path: Path, models: Mapping[str, Any], names: Sequence[str]) -> str:
    for name in names:
        if name in models:
            return name
    near = difflib.get_close_matches(names[0], map(str, models), n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise ConfigError(
        f"{path}: no price of {' or '.join(map(repr, names))}{hint}; listed: {', '.join(map(str, models))}"
    )


def _price(path: Path, model: str, values: Any) -> Price:
    known = [option.name for option in fields(Price)]
    if not isinstance(values, Mapping) or set(values) - set(known) or not values:
        shape = "{prompt_usd: …, completion_usd: …}"
        raise ConfigError(f"{path}: {model} is {values!r}; write {shape}, USD per million tokens")
    for key, value in values.items():
        if value is None and key not in ("prompt_usd", "completion_usd"):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{path}: {model}.{key} is {value!r}, not a number; give USD per million tokens")
    try:
        return Price(**{key: float(value) for key, value in values.items() if value is not None})
    except ConfigError as error:
        raise ConfigError(f"{path}: {model}.{error}") from None


# --- per prompt ------------------------------------------------------------------------------------------------


def usd(work: Work, prices: Prices) -> Floats:
    """Cost of each request in USD, shape (n,)."""
    device = work.device_read * prices.device.prompt_usd + work.device_written * prices.device.completion_usd
    cloud = work.cloud_read * prices.cloud.prompt_usd + work.cloud_written * prices.cloud.completion_usd
    return np.asarray(device / 1e6 + cloud / 1e6)


def latency_s(work: Work, network: Network) -> Floats:
    """Seconds until the whole answer is there, shape (n,): the device's work, then the cloud's; see `Network`."""
    on_device = network.device_s(work.device_read, work.device_written)
    return on_device + network.cloud_s(
        work.cloud_read, work.cloud_written, calls=work.calls, up=work.up, down=work.down
    )
