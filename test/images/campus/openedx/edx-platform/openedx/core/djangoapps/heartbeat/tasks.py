from celery import shared_task


@shared_task
def sample_task():
    """Proves that a worker works."""
    return True
