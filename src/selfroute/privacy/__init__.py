"""What may leave the device: detectors, redaction, restoring, and a check of the bytes that are sent."""

from selfroute.privacy.base import KINDS, Detector, Span, find
from selfroute.privacy.numbers import Numbers
from selfroute.privacy.patterns import Patterns
from selfroute.privacy.redaction import ACTIONS, Action, Redacted, Redactor
from selfroute.privacy.restoring import Restorer, restored
from selfroute.privacy.table import Table

__all__ = [
    "ACTIONS",
    "KINDS",
    "Action",
    "Detector",
    "Numbers",
    "Patterns",
    "Redacted",
    "Redactor",
    "Restorer",
    "Span",
    "Table",
    "find",
    "restored",
]
