"""Run by Alembic for each command; the connection comes from `upgrade`."""

from alembic import context

from extproc.stores.sql.tables import metadata

connection = context.config.attributes["connection"]
if connection.dialect.name == "postgresql":
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7031985)")  # one migrator at a time
context.configure(connection=connection, target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
