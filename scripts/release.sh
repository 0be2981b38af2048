#!/usr/bin/env bash
# Builds what a release offers for download, on Debian with rustup:
#   scripts/release.sh [x86_64] [aarch64]        default: both
# Files in target/release-files/: a static binary, a Debian package and an image (OCI archive, if buildah is there) for each
# architecture; a bill of materials (CycloneDX); the changelog's section; checksums.
# Needs the Debian packages make, musl-tools, gcc-aarch64-linux-gnu, libc6-dev, nodejs and postgresql; installs missing
# cargo tools.
#
# The binary for x86_64 is compiled twice: the first one counts under load which parts of it run, and the compiler then makes
# those fast and the others small. The counts fit no other architecture, and no binary for another one runs here fast enough
# to count.
set -euo pipefail
cd "$(dirname "$0")/.."
architectures=("$@")
[ ${#architectures[@]} -gt 0 ] || architectures=(x86_64 aarch64)
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
target=${CARGO_TARGET_DIR:-target}
out=$target/release-files
# The limit that a binary to download keeps.
max_bytes=25000000

need() { command -v "$1" >/dev/null || { echo "missing $1: apt-get install $2" >&2; exit 1; }; }
tool() { # tool COMMAND VERSION
  command -v "$1" >/dev/null || env -u CARGO_TARGET_DIR cargo install --locked "$1@$2"
}
tool cargo-deb 3.8.0
tool cargo-auditable 0.7.7
tool cargo-cyclonedx 0.5.9
rm -rf "$out"
mkdir -p "$out"

# The C parts of the binary (QuickJS, jemalloc, ring, zstd) are compiled with Debian's compilers; aarch64's has glibc's
# headers, whose fortified functions musl does not have. Rust brings musl itself for linking: musl-gcc as the linker would
# make a dynamic binary.
export CC_x86_64_unknown_linux_musl=musl-gcc
export CC_aarch64_unknown_linux_musl=aarch64-linux-gnu-gcc AR_aarch64_unknown_linux_musl=aarch64-linux-gnu-ar
export CFLAGS_aarch64_unknown_linux_musl=-U_FORTIFY_SOURCE
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER=aarch64-linux-gnu-gcc
# jemalloc's configuration would find it in glibc's headers, where it has another type.
export je_cv_strerror_r_returns_char_with_gnu_source=no

image() { # image BINARY ARCHITECTURE FILE
  command -v buildah >/dev/null || { echo "no buildah: the image for $2 is left out" >&2; return; }
  local context
  context=$(mktemp -d)
  mkdir "$context/data"
  cp "$1" "$context/settee"
  buildah build --quiet --isolation chroot --arch "$2" --format docker --tag "settee:$version-$2" \
    --file packaging/Dockerfile "$context" >/dev/null
  buildah push --quiet "settee:$version-$2" "docker-archive:$3:settee:$version"
  rm -r "$context"
}

# Compiles settee with these flags of rustc.
compile() { # compile TRIPLE RUSTFLAGS
  RUSTFLAGS=$2 cargo auditable build --locked --profile dist --target "$1" --bin settee
}

# Runs a load on the binary, which was compiled to count, and makes a profile of the counts. A server writes them when it ends.
profile() { # profile BINARY COUNTS PROFILE
  rustup component add llvm-tools
  SETTEE_BIN=$(realpath "$1") BENCH_SECONDS=2 protocol-tests/postgres.sh node benches/train.mjs
  "$(rustc --print sysroot)/lib/rustlib/$(rustc --print host-tuple)/bin/llvm-profdata" merge --output "$3" "$2"
}

need make make
for architecture in "${architectures[@]}"; do
  case $architecture in
    x86_64) need musl-gcc musl-tools; debian=amd64 ;;
    aarch64) need aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu; debian=arm64 ;;
    *) echo "unknown architecture $architecture: x86_64 or aarch64" >&2; exit 1 ;;
  esac
  triple=$architecture-unknown-linux-musl
  rustup target add "$triple"
  built=$target/$triple/dist/settee
  flags=
  if [ "$architecture" = x86_64 ]; then
    need node nodejs
    counts=$(realpath "$target")/counts
    rm -rf "$counts"
    compile "$triple" "-Cprofile-generate=$counts"
    profile "$built" "$counts" "$counts.profdata"
    flags=-Cprofile-use=$counts.profdata
  fi
  compile "$triple" "$flags"
  if file "$built" | grep -q 'dynamically linked'; then echo "$built is not static" >&2; exit 1; fi
  bytes=$(stat --format %s "$built")
  if [ "$bytes" -gt $max_bytes ]; then echo "$built has $bytes bytes, more than $max_bytes" >&2; exit 1; fi
  cp "$built" "$out/settee-$version-linux-$architecture"
  cargo deb --no-build --no-strip --profile dist --target "$triple" --output "$out/settee_${version}_$debian.deb"
  image "$built" "$debian" "$out/settee-$version-image-$debian.tar"
done

cargo cyclonedx --format json --override-filename "settee-$version.cdx" >/dev/null
mv "settee-$version.cdx.json" "$out/"
# The section of this version, or what is not released yet.
awk -v version="$version" '
  /^## / { on = index($0, "## " version) == 1 || (!found && $0 == "## Unreleased"); if (on) found = 1 }
  on' CHANGELOG.md >"$out/CHANGELOG.md"
(cd "$out" && sha256sum -- * >SHA256SUMS)
ls -l "$out"
