"""
Metrics: numbers for a monitor, by name, with what each means.

* described    every metric that this package or the worker exports: the one list
* model_calls  what the metered calls of this process came to
* collector    what one engine of this process has decided and how long that took
* refused      what it refused, until that is written to PostgreSQL for the reports
* prometheus   both as Prometheus' text, with the extra ``quota-engine[metrics]``

No metric has an account or a caller's word as a label, except quotas that an operator has chosen.
"""
