CREATE DATABASE mlflow; -- beside Dagster's: both keep a table alembic_version
