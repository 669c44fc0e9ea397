import os

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_array

from hyperdecode.decoding.arrays import as_tensor, to_numpy
from hyperdecode.decoding.blocks import Responses, available_memory
from hyperdecode.errors import UserError


@pytest.mark.parametrize(
    ("given", "computed"),
    [
        (np.float64, torch.float64),
        (np.float32, torch.float32),
        (np.float16, torch.float32),
        (np.int16, torch.float64),
        (bool, torch.float64),
        (">f4", torch.float32),
        (object, torch.float64),
    ],
)
def test_numpy_is_computed_in_its_type_and_comes_back(given, computed):
    values = np.array([[0, 1], [1, 0]]).astype(given)
    tensor, kind = as_tensor(values, "x")
    assert tensor.dtype == kind.dtype == computed
    assert np.array_equal(tensor.numpy(), values.astype(float))
    back = kind.back(tensor + 0.5)
    assert isinstance(back, np.ndarray)
    assert np.array_equal(back, values.astype(float) + 0.5)
    assert torch.from_numpy(back).dtype == computed


@pytest.mark.parametrize("given", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int32])
def test_torch_comes_back_as_torch(given):
    values = torch.tensor([[0, 1], [1, 0]], dtype=given)
    tensor, kind = as_tensor(values, "x")
    expected = torch.float64 if given in (torch.float64, torch.int32) else torch.float32
    assert tensor.dtype == expected
    back = kind.back(tensor.double())
    assert isinstance(back, torch.Tensor)
    assert back.dtype == expected


def test_memory_is_shared_and_gradients_are_left_behind():
    values = np.zeros((2, 3))
    tensor, _ = as_tensor(values, "x")
    values[0, 1] = 5
    assert tensor[0, 1] == 5
    tracked = torch.zeros(2, 3, requires_grad=True)
    assert not as_tensor(tracked, "x")[0].requires_grad
    assert to_numpy(tracked).shape == (2, 3)


@pytest.mark.parametrize("values", [np.arange(6.0)[::-1], np.arange(6.0).reshape(2, 3)[:, ::-1], [[1, 2], [3, 4]]])
def test_what_torch_cannot_take_is_copied(values):
    assert np.array_equal(as_tensor(values, "x")[0].numpy(), np.asarray(values))


def test_read_only_arrays_are_not_written_to():
    values = np.zeros(3)
    values.flags.writeable = False
    tensor, _ = as_tensor(values, "x")
    tensor += 1
    assert not values.any()


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (np.ones(2) * 1j, UserError, "Complex"),
        (torch.ones(2) * 1j, UserError, "Complex"),
        ([["a", "b"]], UserError, "array of numbers"),
        ([[1, 2], [3]], UserError, "array of numbers"),
        (csr_array(np.eye(2)), TypeError, "sparse"),
        (torch.eye(2).to_sparse(), TypeError, "sparse"),
    ],
)
def test_what_is_no_dense_real_array_is_refused(values, error, message):
    with pytest.raises(error, match=message) as caught:
        as_tensor(values, "x")
    assert "\n" not in str(caught.value)


def test_tables_and_lists_are_read_whole_and_maps_of_files_in_blocks(tmp_path):
    values = np.arange(12, dtype=np.int16).reshape(4, 3)
    np.save(tmp_path / "x.npy", values)
    on_disk = Responses(np.load(tmp_path / "x.npy", mmap_mode="r"))
    assert on_disk.on_disk
    for given in (values, values.tolist(), pd.DataFrame(values), torch.from_numpy(values)):
        responses = Responses(given)
        assert not responses.on_disk
        for one in (responses, on_disk):
            assert one.shape == (4, 3)
            assert np.array_equal(one.columns(1, 3).numpy(), values[:, 1:])
            assert np.array_equal(one.rows(torch.tensor([2, 0, 3])).numpy(), values[[2, 0, 3]])
            blocks = [(rows, block.tolist()) for rows, block in one.row_blocks(3 * 3 * 8)]
            assert blocks == [(slice(0, 3), values[:3].tolist()), (slice(3, 4), values[3:].tolist())]
            assert one.rows(slice(0, 1)).dtype == torch.float64
    with pytest.raises(UserError, match="fitted on 4 voxels"):
        Responses(np.load(tmp_path / "x.npy", mmap_mode="r"), n_voxels=4)


def test_free_memory_is_that_of_the_machine_or_less():
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < available_memory(torch.device("cpu")) <= total


@pytest.mark.gpu
def test_a_gpu_tensor_stays_there():
    tensor, kind = as_tensor(torch.zeros(2, 2).cuda(), "x")
    assert tensor.is_cuda
    assert kind.back(tensor.cpu()).is_cuda
    assert 0 < available_memory(tensor.device) <= torch.cuda.get_device_properties(0).total_memory
