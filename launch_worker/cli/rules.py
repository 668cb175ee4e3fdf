"""Defines `rules`: what is watched, and the channel that is told."""

from __future__ import annotations

import click

from launch_worker import terminal
from launch_worker.cli.channels import channels_of
from launch_worker.cli.people import JSON, NAME
from launch_worker.model.units import isoformat, parse_duration
from launch_worker.notifications.rule import CONDITIONS, Rule


@click.group(
    invoke_without_command=True,
    epilog="Example: launch-worker rules add slow --when waiting --for 2h --queue gpu --channel ops",
)
@JSON
@click.pass_context
def rules_command(ctx: click.Context, as_json: bool) -> None:
    """List, make and delete rules, which tell a channel when runs wait too long, are silent, or a worker is lost."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_command, as_json=as_json)


@rules_command.command("list", epilog="Example: launch-worker rules list --json")
@JSON
@click.pass_obj
def list_command(url: str | None, as_json: bool) -> None:
    """List the rules: what each watches, and the channel that it tells."""
    found = channels_of(url).rules()
    if as_json:
        for rule in found:
            terminal.echo_json(rule.as_json())
        return
    if not found:
        terminal.say(
            "no rules; make one with: launch-worker rules add NAME --when waiting --for 2h --channel C", err=True
        )
        return
    columns = (
        terminal.Column("RULE"),
        terminal.Column("WATCHES", least=20),
        terminal.Column("CHANNEL", rank=2),
        terminal.Column("FINDS", rank=1),
    )
    terminal.table(columns, [(rule.name, rule.says(), rule.channel, _finds(rule)) for rule in found])


def _finds(rule: Rule) -> str:
    """What the rule finds now, in a few words."""
    if not rule.findings:
        return "nothing now"
    return f"{rule.findings}, first {terminal.ago(isoformat(rule.since))}"


@rules_command.command("add", epilog="Example: launch-worker rules add idle --when gpu-idle --for 30m --channel ops")
@NAME
@click.option("--when", "condition", type=click.Choice(CONDITIONS), required=True, help="What is watched.")
@click.option("--for", "duration", metavar="DUR", help="For how long it must be so (unserved: 5m, worker-lost: 0).")
@click.option("--queue", default="", metavar="NAME", help="Only this queue.")
@click.option("--project", default="", metavar="ENTITY/PROJECT", help="Only runs of this project.")
@click.option("--channel", required=True, metavar="NAME", help="The channel that is told.")
@JSON
@click.pass_obj
def add_command(
    url: str | None,
    name: str,
    condition: str,
    duration: str | None,
    queue: str,
    project: str,
    channel: str,
    as_json: bool,
) -> None:
    """Make a rule; each finding is told once, until it is over.

    waiting: runs are ready and wait. unserved: they wait, and no worker consumes the queue. silent: a run has no
    output. gpu-idle: all GPUs that a run holds are idle. worker-lost: heartbeats have stopped.
    """
    seconds = parse_duration(duration, what="--for") if duration is not None else None
    rule = channels_of(url).add_rule(name, condition, channel, seconds=seconds, queue=queue, project=project)
    if as_json:
        terminal.echo_json(rule.as_json())
    else:
        terminal.say(f"rule {rule.name} is made: it watches for {rule.says()}, and tells {rule.channel}")


@rules_command.command("delete", epilog="Example: launch-worker rules delete slow")
@NAME
@click.pass_obj
def delete_command(url: str | None, name: str) -> None:
    """Delete a rule."""
    channels_of(url).delete_rule(name)
    terminal.say(f"rule {name} is deleted")
