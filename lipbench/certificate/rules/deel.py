"""Rules for layers of deel-torchlip."""
