#!/usr/bin/env bash
# Checks a machine with one NVIDIA GPU in under 8 minutes: build, tests, compute-sanitizer, benches
# and two short trainings.
#
#     tools/device_check.sh [FOLDER]      results go to FOLDER, new or empty; device-check/ without it
#     tools/device_check.sh --list        the parts, and the seconds that each may take
#
# It needs torch with CUDA, the CUDA toolkit and fastad's dependencies, and no network. PYTHON names
# the interpreter. The package is installed to a temporary folder. The environment stays as it is.
#
# Each part writes FOLDER/PART.log. A part that fails or hangs does not stop the next one.
# FOLDER/summary.txt says how each part ended. The status is 0 where all parts passed, 1 where one
# failed, and 2 where nothing could be checked.
set -u -o pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
listing=''
if [[ ${1:-} == --list ]]; then
  listing=yes
elif [[ ${1:-} == -* || $# -gt 1 ]]; then
  echo "usage: tools/device_check.sh [--list | FOLDER]" >&2
  exit 2
fi

failed=0
say() { tee -a "$out/summary.txt"; }

# part NAME SECONDS COMMAND...
part() {
  local name=$1 limit=$2 start=$SECONDS status=0 result=passed
  shift 2
  if [[ -n $listing ]]; then
    printf '%-12s %4d\n' "$name" "$limit"
    return
  fi
  if [[ -z $device && $name != machine ]]; then
    printf '%-12s not run: there is no GPU\n' "$name" | say
    return
  fi
  # After an interrupt pytest still lists what failed. What goes on after it is killed.
  timeout --signal=INT --kill-after=3 "$limit" "$@" >"$out/$name.log" 2>&1 </dev/null || status=$?
  case $status in
    0) ;;
    124 | 137) result="failed: over its $limit seconds" ;;
    *) result="failed: status $status" ;;
  esac
  [[ $result == passed ]] || failed=$((failed + 1))
  printf '%-12s %4d s  %s\n' "$name" $((SECONDS - start)) "$result" | say
}

# sanitize TOOL SECONDS: fastad's own kernels, on small inputs of every kind
sanitize() {
  local kinds='test_shapes or test_batch or test_reductions or test_dtypes_of_levels'
  kinds+=' or test_aggregate_maps_and_backward or test_maximum or test_anomaly_map'
  # Without torch's cache each tensor is an allocation whose end memcheck knows.
  part "$1" "$2" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
    compute-sanitizer --tool "$1" --error-exitcode 9 --kernel-name kernel_substring=fastad \
    "$python" -m pytest -q --rootdir "$root" -k "[cuda and ($kinds)" "$root/tests/cuda_emulation"
}

if [[ -z $listing ]]; then
  out=${1:-device-check}
  mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
  if [[ -n $(ls -A "$out") ]]; then
    echo "$out is not empty: name another folder, or delete it" >&2
    exit 2
  fi
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  export PYTHONPATH=$site PYTHONUNBUFFERED=1 FASTAD_CUDA=1
  export PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin
  device=$("$python" -c '
import torch
if torch.cuda.is_available():
    print(*torch.cuda.get_device_capability(), torch.cuda.get_device_name())')
  if [[ -n $device ]]; then
    read -r major minor name <<<"$device"
    export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$major.$minor}
    echo "device: $name, compute capability $major.$minor" | say
  else
    echo "device: none. torch finds no GPU here, and all parts but the first need one." | say
  fi
  cd "$out" || exit 2 # not the root, whose folder fastad/ holds no compiled modules
fi

# shellcheck disable=SC2016  # expanded by the inner shell
part machine 10 bash -c '
nvidia-smi; nvcc -V; c++ --version; compute-sanitizer --version; git -C "$1" log -1 --oneline
"$2" -m pip list' - "$root" "$python"
part build 100 bash -c '
"$2" -m pip install --no-build-isolation --no-deps --no-index --target "$3" "$1" && "$2" -c "
from fastad import _extension
print(_extension.build_info())
assert _extension.cuda_obstacle is None, _extension.cuda_obstacle"' - "$root" "$python" "${site:-}"
part kernels 30 "$python" -m pytest -q -n 4 --rootdir "$root" -k "[cuda" "$root/tests/cuda_emulation"
part tests 85 "$python" -m pytest -q -n 4 --durations 10 --rootdir "$root" "$root/tests/cuda"
sanitize memcheck 35
sanitize racecheck 35
sanitize synccheck 20
part ops 60 "$python" "$root/bench/cuda_ops.py" --json ops.json \
  --cases "bfloat16 channels_last" float32 "float32 maps"
part serving 30 "$python" "$root/bench/cuda_serving.py" --json serving.json
part training 40 "$python" "$root/bench/cuda_training.py" --json training.json

if [[ -z $listing ]]; then
  echo "$SECONDS seconds in all, $failed parts failed" | say
  [[ -n $device ]] || exit 2
  ((failed == 0))
fi
