"""Write the description: run ``python -m schema.asyncapi > schema/asyncapi.yaml`` after a change of messages or
channels."""

import sys

from schema.asyncapi.document import as_yaml, document

sys.stdout.write(as_yaml(document()))
