// Which folder of the machine stands for which image. Nothing is pulled.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// image is a root file system with the settings that an image carries.
type image struct {
	Root       string   `json:"root"`
	Entrypoint []string `json:"entrypoint"`
	Command    []string `json:"command"`
	Env        []string `json:"env"`
	// User and Group in figures.
	User  int `json:"user"`
	Group int `json:"group"`
}

// images by repository, without registry, tag and digest.
type images map[string]image

func readImages(path string) (images, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	found := images{}
	if err := json.Unmarshal(text, &found); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return found, nil
}

// find looks an image up by its reference, whichever registry it names, whatever its tag or digest.
func (all images) find(reference string) (image, error) {
	repository, _, _ := strings.Cut(reference, "@")
	if host, path, found := strings.Cut(repository, "/"); found && strings.ContainsAny(host, ".:") {
		repository = path
	}
	if colon := strings.LastIndex(repository, ":"); colon > strings.LastIndex(repository, "/") {
		repository = repository[:colon]
	}
	found, ok := all[repository]
	if !ok {
		return image{}, fmt.Errorf("no folder stands for the image %s", reference)
	}
	return found, nil
}
