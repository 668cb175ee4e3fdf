"""Lists the Celery settings that an operator may override in a `celeryconfig.py` of their own.

What correctness rests on is in `launch_worker.celery.application.REQUIRED` and wins over both.
"""

from __future__ import annotations

broker_connection_retry_on_startup = True
# None: no outage of Redis, however long, ends a worker.
broker_connection_max_retries = None
# For tasks with late acknowledgement, which are not used: without it Celery warns of them at each reconnect.
worker_cancel_long_running_tasks_on_connection_loss = True
worker_enable_prefetch_count_reduction = False
worker_disable_rate_limits = True
# The task events show runs in Flower.
worker_send_task_events = True
worker_redirect_stdouts = False
beat_max_loop_interval = 5
broker_transport_options = {
    "socket_timeout": 5,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "health_check_interval": 10,
    "client_name": "launch-worker",
}
