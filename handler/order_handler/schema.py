"""`python -m order_handler.schema` creates the tables that are missing in DATABASE_URL, and ends."""

import os
import sys

from sqlalchemy.exc import SQLAlchemyError

from order_handler import environment
from order_handler.database import Database


def main() -> None:
    try:
        database = Database(environment.database_url(os.environ))
        database.create_missing()
    except ValueError as error:
        sys.exit(str(error))
    except SQLAlchemyError as error:
        sys.exit(f"The database refused: {error}")
    database.close()


if __name__ == "__main__":
    main()
