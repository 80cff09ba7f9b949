package node

import (
	"errors"
	"strings"
	"testing"

	"github.com/pantala/pantala/config"
	"github.com/pantala/pantala/fs/erofs"
)

// TestChooseImageMount: the best way that is possible, and why no better one; or the one that is wanted, or an error.
func TestChooseImageMount(t *testing.T) {
	files, loop := errors.New("kernel too old"), errors.New("no loop devices")
	for _, c := range []struct {
		want     string
		root     bool
		can      erofs.Support
		how      string
		why, err string // what it says; "": none
	}{
		{config.Auto, true, erofs.Support{}, config.Devices, "", ""},
		{config.Auto, true, erofs.Support{Files: files}, config.Loop, "kernel too old", ""},
		{config.Auto, true, erofs.Support{Files: files, Loop: loop}, config.Files, "no loop devices", ""},
		{config.Auto, false, erofs.Support{}, config.Files, "needs root", ""},
		{config.Devices, true, erofs.Support{}, config.Devices, "", ""},
		{config.Devices, true, erofs.Support{Files: files}, "", "", "kernel too old"},
		{config.Devices, false, erofs.Support{}, "", "", "needs root"},
		{config.Loop, true, erofs.Support{}, config.Loop, "image-mount is loop", ""},
		{config.Loop, true, erofs.Support{Loop: loop}, "", "", "no loop devices"},
		{config.Loop, false, erofs.Support{}, "", "", "needs root"},
		{config.Files, true, erofs.Support{}, config.Files, "image-mount is files", ""},
		{config.Files, false, erofs.Support{}, config.Files, "image-mount is files", ""},
	} {
		how, why, err := ChooseImageMount(c.want, c.root, c.can)
		if how != c.how || !says(why, c.why) || !says(err, c.err) {
			t.Errorf("%+v: %q, because %v, error %v", c, how, why, err)
		}
	}
}

func says(err error, text string) bool {
	if text == "" || err == nil {
		return text == "" && err == nil
	}
	return strings.Contains(err.Error(), text)
}
