"""`infodcl-dist doctor`: do the installed versions fit together, and what is there to compute with."""

import click
from rich.table import Table

from infodcl_dist.base.console import PipedConsole
from infodcl_dist.base.errors import UserError
from infodcl_dist.base.stack import Finding, check_versions, describe_machine, installed_versions, try_operator


@click.command()
def doctor() -> None:
    """Show versions that fit together or don't, with the command that mends them; devices and back ends."""
    console = PipedConsole(highlight=False)
    findings = [*check_versions(installed_versions()), _operator()]
    table = Table(title="versions", title_justify="left")
    for heading in ("package", "found", "needed", ""):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        verdict = "[green]fits[/]" if finding.ok else "[red]change[/]"
        table.add_row(finding.package, finding.found, finding.needed, verdict)
    console.print(table)
    machine = Table("this machine", "", title_justify="left")
    for fact, value in describe_machine().items():
        machine.add_row(fact, value)
    console.print(machine)
    if faults := [finding for finding in findings if not finding.ok]:
        for finding in faults:
            console.print(f"{finding.package}: {finding.remedy}", soft_wrap=True, markup=False)
        names = ", ".join(finding.package for finding in faults)
        raise UserError(f"the stack does not fit together ({names}); run: {faults[0].remedy}")


def _operator() -> Finding:
    reason = try_operator()
    return Finding(
        package="fbgemm operator",
        found=reason or "loads and runs",
        needed="loads and runs",
        ok=not reason,
        remedy="rm -rf .venv && launch/setup.sh" if reason else "",
    )
