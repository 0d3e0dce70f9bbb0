"""`sluice render`: the configuration as Envoy's files."""

import os
from pathlib import Path
from typing import Annotated

import typer

from extproc.cli.settings import ConfigOption, configuration, fail


def render(
    config: ConfigOption = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for Envoy's files.")] = Path("envoy-config"),
    run: Annotated[Path | None, typer.Option(help="Folder of the Unix sockets. Default: state_dir/run.")] = None,
    secrets: Annotated[
        Path | None, typer.Option(help="Folder for the secret files. Default: state_dir/secrets.")
    ] = None,
    with_secrets: Annotated[
        bool,
        typer.Option("--with-secrets", help="Write the secret files too, readable by their owner alone."),
    ] = False,
) -> None:
    """Write the files that Envoy reads: bootstrap, listeners, routes, clusters.

    [bold]Examples[/bold]

      sluice render --config examples/quickstart/gateway.yaml --out /etc/envoy

      sluice render -c gateway.yaml -o /etc/envoy --run /run/sluice --secrets /etc/envoy/secrets --with-secrets
    """
    from extproc import dataplane  # 28 MB that few verbs need

    gateway = configuration(config, opens_stores=False)
    sockets = run or gateway.state_dir / "run"
    layout = dataplane.Layout(
        config_dir=str(out),
        secrets_dir=str(secrets or gateway.state_dir / "secrets"),
        worker_sockets=tuple(str(sockets / f"worker-{number}.sock") for number in range(gateway.workers)),
        admin_socket=str(sockets / "admin.sock"),
    )
    try:
        if with_secrets:
            dataplane.write_secrets(gateway, os.environ, Path(layout.secrets_dir))
        dataplane.write(dataplane.render(gateway, layout), out)
    except dataplane.CredentialError as error:
        fail(str(error))
    except OSError as error:
        fail(f"Cannot write to {error.filename}: {error.strerror}.")
    typer.echo(f"wrote {out}/bootstrap.yaml and the files it names", err=True)
