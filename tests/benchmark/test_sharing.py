from mtl_jax.benchmark import sharing


def test_architectures_are_timed_beside_one_task():
    result = sharing.run(["hard"], image_size=(32, 32), batch=1, repeats=1)
    (found,) = result["architectures"].values()
    assert found["ms"] > 0
    assert found["relative_to_single_task"] == found["ms"] / result["single_task_ms"]
    assert found["parameters"] > found["shared"] > 0
    assert result["trunks"]["vmap_over_loop"] == result["trunks"]["vmap_ms"] / result["trunks"]["loop_ms"]
