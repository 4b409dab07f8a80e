"""
Extraction: what a provider's answer says was used, as one normalised ``Usage``.

* extract                      one finding for a whole response
* StreamTally                  the same for a stream, chunk by chunk
* Reported, Observed, Anomaly  what a finding is; None when nothing was said
* origin_of, model_of …        who answered
* usage_attributes             a usage under OpenTelemetry's names

Pure: it looks at objects, reads no clock and never talks to anyone.
"""

from quota_engine.extraction.attributes import origin_attributes, usage_attributes
from quota_engine.extraction.found import Anomaly, Observed, Origin, Reported
from quota_engine.extraction.responses import (
    extract,
    model_of,
    origin_of,
    provider_of,
    request_id_of,
)
from quota_engine.extraction.streams import StreamTally

__all__ = [
    "Anomaly",
    "Observed",
    "Origin",
    "Reported",
    "StreamTally",
    "extract",
    "model_of",
    "origin_attributes",
    "origin_of",
    "provider_of",
    "request_id_of",
    "usage_attributes",
]
