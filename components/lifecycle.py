"""How every resource of the program is replaced, kept and waited for.

A successor is created before its predecessor is deleted; an explicit name would otherwise mean the reverse. A resource
that holds what cannot be made again can be protected. A new grant or API gets time before anything relies on it.
"""

import asyncio

import pulumi

KEPT = (
    "gcp:artifactregistry/repository:Repository",
    "gcp:cloudrunv2/service:Service",
    "gcp:cloudtasks/queue:Queue",
    "gcp:secretmanager/secret:Secret",
    "gcp:serviceaccount/account:Account",
)
"""Types that deletion protection covers."""
SLOW = (
    "gcp:cloudrunv2/serviceIamMember:ServiceIamMember",
    "gcp:projects/iAMMember:IAMMember",
    "gcp:projects/service:Service",
    "gcp:secretmanager/secretIamMember:SecretIamMember",
)
"""Types that Google creates at once, but that take effect everywhere only later."""
SETTLE_SECONDS = 60
sleep = asyncio.sleep


def govern(deletion_protection: bool) -> None:
    """Apply these rules to all resources that the program declares after this call."""
    settled = pulumi.ResourceHook("settled", _settle)

    def rule(args: pulumi.ResourceTransformationArgs) -> pulumi.ResourceTransformationResult:
        rules = pulumi.ResourceOptions(delete_before_replace=False)
        if args.type_ in KEPT:
            rules.protect = deletion_protection
        if args.type_ in SLOW:
            rules.hooks = pulumi.ResourceHookBinding(after_create=[settled])
        return pulumi.ResourceTransformationResult(args.props, pulumi.ResourceOptions.merge(args.opts, rules))

    pulumi.runtime.register_stack_transformation(rule)


async def _settle(_: pulumi.ResourceHookArgs) -> None:
    await sleep(SETTLE_SECONDS)
