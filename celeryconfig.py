"""The operator's Celery settings; read from the folder that `celery -A launch_worker …` is started in.

Any Celery setting may stand here and wins over launch_worker's defaults, except those that correctness rests on
(launch_worker/celery/application.py). The broker is not set here: LAUNCH_REDIS_URL names it for everything.
"""

worker_concurrency = 4
