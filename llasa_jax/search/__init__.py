"""Drawing many candidates and choosing among them: sampler, guards, strategies, record."""
