"""The program: it reads the settings, declares the components and exports what producers need."""

import pulumi

import configuration
from components import lifecycle
from components.apis import APIS, Apis, HandlerAccess, Scope
from components.handler_image import HandlerImage
from components.handler_service import HandlerService
from components.monitoring import Monitoring
from components.relay import Relay
from components.task_invoker import TaskInvoker
from components.task_queue import TaskQueue
from settings import DEAD_LETTER_CONCURRENCY

s = configuration.load()
lifecycle.govern(s.deletion_protection)
apis = Apis("apis", s.project, [*APIS, *s.further_apis])
scope: Scope = {
    "apis": apis,
    "project": s.project,
    "location": s.region,
    "labels": {"stack": pulumi.get_stack().lower().replace(".", "-")[:63], **s.labels},
    # no rename of service or account changes it
    "audience": f"https://handler.invalid/{s.project}/{pulumi.get_stack()}",
    "queue_name": s.queue["queue_name"],
    "dead_letter_queue": s.dead_letter_queue,
    "service_name": s.service["service_name"],
    "handler_timeout_seconds": s.service["handler_timeout_seconds"],
    "has_outbox": s.has_outbox,
}

image = HandlerImage("handler-image", {**scope, **s.image})
service = HandlerService("handler", {**scope, **s.service, **s.environment, "image": image.digest})
invoker = TaskInvoker("invoker", {**scope, **s.invoker, "service": service.service_name, "producers": s.producers})
access: HandlerAccess = {
    "service_url": service.url,
    "invoker_email": invoker.email,
    "handler_member": service.account_member,
}
queue = TaskQueue(
    "queue",
    {**scope, **s.queue, **access, "dead_letter_concurrency": DEAD_LETTER_CONCURRENCY, "producers": s.producers},
)
if s.has_outbox:
    Relay("relay", {**scope, **access, "queue": queue.name})
monitoring = Monitoring("monitoring", {**scope, **s.monitoring})

pulumi.export("service_url", service.url)
pulumi.export("invoker_email", invoker.producers_email)
pulumi.export("queue", queue.path)
pulumi.export("dead_letter_queue", queue.dead_letter_path)
pulumi.export("image", service.image)
pulumi.export("dashboard_url", monitoring.dashboard_url)
