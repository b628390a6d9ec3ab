// SPDX-License-Identifier: Apache-2.0

package reference

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// WireGuardDevice is what the device is called in its netns.
const WireGuardDevice = "wireguard"

// wireguardPort is where both ends take datagrams.
const wireguardPort = 51820

// WireGuard is one end of wireguard-go, as its own program runs it: keys of 32
// bytes, the peer's address, and what the two devices are called inside.
type WireGuard struct {
	Private, Peer []byte
	Endpoint      netip.Addr
	Inside, Far   netip.Addr
}

// Run runs it until it is told to end. The device goes with the process.
func (w WireGuard) Run() error {
	link, err := tun.CreateTUN(WireGuardDevice, device.DefaultMTU)
	if err != nil {
		return err
	}
	d := device.NewDevice(link, conn.NewDefaultBind(), device.NewLogger(device.LogLevelError, ""))
	defer d.Close()
	err = d.IpcSet(fmt.Sprintf("private_key=%s\nlisten_port=%d\npublic_key=%s\nallowed_ip=%v/32\nendpoint=%v\n",
		hex.EncodeToString(w.Private), wireguardPort, hex.EncodeToString(w.Peer), w.Far, netip.AddrPortFrom(w.Endpoint, wireguardPort)))
	if err != nil {
		return err
	}
	if err := d.Up(); err != nil {
		return err
	}
	if err := setUp(WireGuardDevice, w.Inside); err != nil {
		return fmt.Errorf("give %s its address: %w", WireGuardDevice, err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	<-ctx.Done()
	return nil
}

// setUp gives a device an address in a network of 24 bits.
func setUp(name string, addr netip.Addr) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, set := range []struct {
		request uint
		value   func(*unix.Ifreq) error
	}{
		{unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(addr.AsSlice()) }},
		{unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr([]byte{255, 255, 255, 0}) }},
		{unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil }},
	} {
		r, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		if err := set.value(r); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, set.request, r); err != nil {
			return err
		}
	}
	return nil
}
