#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes what a real router has in flash, from Debian packages: a FIT image (kernel, initramfs, hashes) as U-Boot boots
# it, and a configuration archive of real files from /etc. Nothing is installed of the kernel; only its file is taken.
#
#   usage: tools/real_firmware.sh        prints the folder that holds firmware.itb and config.tar.gz
#
# Needs Debian or Ubuntu. Missing tools are installed with apt-get if it runs as root, else it says which to install.
# Kept in ${XDG_CACHE_HOME:-~/.cache}/unbrickd/real-firmware and made only once; the same packages give the same bytes.
set -euo pipefail

cache=${XDG_CACHE_HOME:-$HOME/.cache}/unbrickd/real-firmware
tools=(u-boot-tools device-tree-compiler busybox-static cpio)
config_packages=(netbase dnsmasq ppp)

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $1"; say "hint: $2"; exit 1; }

have_tools() {
  command -v mkimage dtc cpio gzip >/dev/null && [ "$(dpkg-query -W -f '${db:Status-Status}' busybox-static 2>/dev/null)" = installed ]
}

install_tools() {
  have_tools && return
  [ "$(id -u)" = 0 ] || fail "mkimage, dtc, cpio or a static busybox is missing" "sudo apt-get install ${tools[*]}"
  say "installing ${tools[*]}"
  DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends "${tools[@]}" >&2
}

# Downloads packages into the current folder and unpacks them there, each into a folder of its name.
fetch() {
  local package
  for package in "$@"; do
    say "fetching $package"
    # The sandbox user could not write to our cache, which may lie in a private home.
    apt-get download --quiet --option APT::Sandbox::User=root "$package" >&2
    dpkg-deb --extract "$package"_*.deb "$package"
    rm -- "$package"_*.deb
  done
}

# linux-image-<architecture> is empty and depends on the package with the kernel.
kernel_package() {
  apt-cache show --no-all-versions "linux-image-$architecture" 2>/dev/null |
    sed -n 's/^Depends: \(linux-image-[^ ,]*\).*/\1/p'
}

make_initramfs() {
  mkdir -p initramfs/bin initramfs/dev initramfs/proc initramfs/sys
  cp "$(command -v busybox)" initramfs/bin/busybox
  cat >initramfs/init <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc none /proc
mount -t sysfs none /sys
exec sh
INIT
  chmod 755 initramfs/init
  find initramfs -exec touch --no-dereference --date=@"$SOURCE_DATE_EPOCH" {} +
  (cd initramfs && find . | LC_ALL=C sort | cpio --quiet --create --format=newc --owner=0:0 --reproducible) |
    gzip -9 --no-name >initramfs.cpio.gz
}

make_fit() {
  local kernel=$1
  cat >firmware.its <<ITS
/dts-v1/;
/ {
    description = "Debian $kernel with a busybox initramfs";
    #address-cells = <1>;
    images {
        kernel {
            description = "$kernel";
            data = /incbin/("vmlinuz");
            type = "kernel";
            arch = "$fit_architecture";
            os = "linux";
            compression = "none";
            load = <0x01000000>;
            entry = <0x01000000>;
            hash { algo = "sha256"; };
        };
        initramfs {
            description = "busybox";
            data = /incbin/("initramfs.cpio.gz");
            type = "ramdisk";
            arch = "$fit_architecture";
            os = "linux";
            compression = "none";
            hash { algo = "sha256"; };
        };
    };
    configurations {
        default = "router";
        router { kernel = "kernel"; ramdisk = "initramfs"; };
    };
};
ITS
  mkimage --fit firmware.its firmware.itb >/dev/null
  mkimage -l firmware.itb >&2
}

make_config() {
  mkdir etc-files
  local package
  for package in "${config_packages[@]}"; do cp --recursive "$package/etc" etc-files/; done
  tar --create --directory etc-files --sort=name --owner=0 --group=0 --numeric-owner \
    --mtime=@"$SOURCE_DATE_EPOCH" etc | gzip -9 --no-name >config.tar.gz
}

main() {
  if [ -f "$cache/firmware.itb" ] && [ -f "$cache/config.tar.gz" ]; then
    echo "$cache"
    return
  fi
  command -v apt-get dpkg-deb >/dev/null || fail "there is no apt-get here" "run it on Debian or Ubuntu, or use your own files: unbrickd demo --firmware FILE --config FILE"
  architecture=$(dpkg --print-architecture)
  case $architecture in
    amd64) fit_architecture=x86_64 ;;
    arm64) fit_architecture=arm64 ;;
    *) fail "no FIT is made for $architecture here" "add its mkimage name to tools/real_firmware.sh" ;;
  esac
  [ "$(id -u)" != 0 ] || apt-get update --quiet >&2 || fail "apt-get update failed" "are the package sources reachable?"
  install_tools
  local package kernel
  package=$(kernel_package)
  [ -n "$package" ] || fail "apt knows no linux-image-$architecture" "check the package sources with apt-cache policy"
  kernel=${package#linux-image-}

  umask 022
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/work.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  cd "$work"
  fetch "$package" "${config_packages[@]}"
  cp --preserve=timestamps "$package/boot/vmlinuz-$kernel" vmlinuz
  SOURCE_DATE_EPOCH=$(stat --format=%Y vmlinuz)
  export SOURCE_DATE_EPOCH
  make_initramfs
  make_fit "$kernel"
  make_config
  mv config.tar.gz firmware.itb "$cache/" # the firmware last: it says that all is there
  echo "$cache"
}

main
