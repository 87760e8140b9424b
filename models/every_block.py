"""Every layer and attention block, imported so that the registry knows them all."""

import models.attention
import models.c3_attention
import models.layers
import models.mobilenet  # noqa: F401
