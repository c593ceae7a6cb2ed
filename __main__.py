"""The program: it reads the settings, declares the components and exports what producers need."""

import pulumi

import configuration
from components import lifecycle
from components.apis import APIS, Apis, ProjectArgs
from components.handler_image import HandlerImage
from components.handler_service import HandlerService
from components.monitoring import Monitoring
from components.relay import Relay
from components.task_invoker import TaskInvoker
from components.task_queue import TaskQueue

s = configuration.load()
lifecycle.govern(s.deletion_protection)
apis = Apis("apis", s.project, [*APIS, *s.further_apis])
audience = f"https://handler.invalid/{s.project}/{pulumi.get_stack()}"  # no rename of service or account changes it
labels = {"stack": pulumi.get_stack().lower().replace(".", "-")[:63], **s.labels}
scope: ProjectArgs = {"apis": apis, "project": s.project, "location": s.region, "labels": labels}

image = HandlerImage("handler-image", {**scope, **s.image, "image_name": s.service["service_name"]})
service = HandlerService(
    "handler", {**scope, **s.service, **s.environment, "audience": audience, "image": image.digest}
)
invoker = TaskInvoker("invoker", {**scope, **s.invoker, "service_name": service.service_name, "producers": s.producers})
queue = TaskQueue(
    "queue",
    {
        **scope,
        **s.queue,
        "producers": s.producers,
        **s.dead_letters,
        "service_url": service.url,
        "invoker_email": invoker.email,
        "audience": audience,
        "handler_member": service.account_member,
    },
)
if s.has_outbox:
    Relay(
        "relay",
        {
            **scope,
            **s.relay,
            "queue": queue.name,
            "service_url": service.url,
            "audience": audience,
            "invoker_email": invoker.email,
            "handler_member": service.account_member,
        },
    )
monitoring = Monitoring("monitoring", {**scope, **s.monitoring, **s.monitored})

pulumi.export("service_url", service.url)
pulumi.export("invoker_email", invoker.producers_email)
pulumi.export("queue", queue.path)
pulumi.export("dead_letter_queue", queue.dead_letter_path)
pulumi.export("image", service.image)
pulumi.export("dashboard_url", monitoring.dashboard_url)
