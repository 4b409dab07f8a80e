"""Work that runs beside the calls: persist, reconcile, schedule, recover."""
