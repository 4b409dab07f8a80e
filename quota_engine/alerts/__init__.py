"""
Alerts: rules on quotas, calls, pools and the deployment; what they find; whom they tell.

Pure: rules and thresholds, what becomes of an alert, channels, messages and their signatures.
"""

from quota_engine.alerts.channels import Channel, Delivery
from quota_engine.alerts.rules import AlertChange, AlertRule
from quota_engine.alerts.signing import check_webhook
from quota_engine.alerts.told import Alert, AlertMessage, AlertStep, AlertStory

__all__ = [
    "Alert",
    "AlertChange",
    "AlertMessage",
    "AlertRule",
    "AlertStep",
    "AlertStory",
    "Channel",
    "Delivery",
    "check_webhook",
]
