package main

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/digitalocean/godo"
)

// plainLink writes an absolute link as `URL page=N per_page=N`, whatever the order of its parameters.
func plainLink(link string) string {
	if link == "" {
		return ""
	}
	parsed, err := url.Parse(link)
	if err != nil || !parsed.IsAbs() {
		return "not an absolute link: " + link
	}
	query := parsed.Query()
	return fmt.Sprintf("%s://%s%s page=%s per_page=%s", parsed.Scheme, parsed.Host, parsed.Path, query.Get("page"), query.Get("per_page"))
}

// imageActions reads GET /v2/images/ID/actions, for which godo has no method of its own.
func (s *suite) imageActions(id int) ([]godo.Action, *godo.Response, error) {
	request, err := s.client.NewRequest(s.ctx, http.MethodGet, fmt.Sprintf("v2/images/%d/actions", id), nil)
	if err != nil {
		return nil, nil, err
	}
	var body struct {
		Actions []godo.Action `json:"actions"`
		Meta    *godo.Meta    `json:"meta"`
		Links   *godo.Links   `json:"links"`
	}
	response, err := s.client.Do(s.ctx, request, &body)
	if err == nil && (body.Meta == nil || body.Meta.Total != len(body.Actions) || body.Links == nil) {
		err = fmt.Errorf("links and meta.total are wanted beside %d actions", len(body.Actions))
	}
	return body.Actions, response, err
}

// settled polls an image until it is available or deleted, for two minutes at most.
func (s *suite) settled(id int) *godo.Image {
	deadline := time.Now().Add(2 * time.Minute)
	for time.Now().Before(deadline) {
		image, _, err := s.client.Images.GetByID(s.ctx, id)
		if err != nil {
			s.fail("image-poll", "no error", err)
			return nil
		}
		// The same states as Terraform: any other ends its wait with an error.
		if image.Status != "NEW" && image.Status != "pending" {
			return image
		}
		time.Sleep(200 * time.Millisecond)
	}
	s.fail("image-poll", "an end within two minutes", "none")
	return nil
}

func (s *suite) images() {
	tag := "godo-" + s.run
	image, response, err := s.client.Images.Create(s.ctx, &godo.CustomImageCreateRequest{
		Name: "godo-" + s.run, Url: s.imageURL, Region: "lon1", Distribution: "Unknown OS", Description: "by godo",
		Tags: []string{tag},
	})
	if !s.runs("image-create", err) {
		return
	}
	s.is("image-create-202", http.StatusAccepted, status(response))
	// Terraform sends this distribution and expects it back.
	s.is("image-distribution-as-sent", "Unknown OS", image.Distribution)
	image = s.settled(image.ID)
	if image == nil {
		return
	}
	s.is("image-available", "available", image.Status)
	s.is("image-fields", "custom false lon1 by godo "+tag,
		fmt.Sprintf("%s %v %s %s %s", image.Type, image.Public, strings.Join(image.Regions, ","), image.Description, strings.Join(image.Tags, ",")))
	s.is("image-sizes", true, image.MinDiskSize >= 1 && image.SizeGigaBytes > 0)
	s.imageAction(image.ID)
	s.imageLists(image.ID, tag)

	updated, _, err := s.client.Images.Update(s.ctx, image.ID, &godo.ImageUpdateRequest{Name: "renamed-" + s.run, Description: "again", Distribution: "Fedora"})
	if s.runs("image-update", err) {
		s.is("image-updated", "renamed-"+s.run+" again Fedora", updated.Name+" "+updated.Description+" "+updated.Distribution)
	}
	s.imageTags(image.ID)
	_, _, err = s.client.ImageActions.Convert(s.ctx, image.ID)
	s.refused("image-convert-refused", http.StatusUnprocessableEntity, "(?i)backup", err)
	s.imageTransfer(image.ID)
	response, err = s.client.Images.Delete(s.ctx, image.ID)
	s.runs("image-delete", err)
	s.is("image-delete-204", http.StatusNoContent, status(response))
	listed, _, err := s.client.Images.ListUser(s.ctx, &godo.ListOptions{PerPage: 200})
	s.is("image-deleted-unlisted", true, err == nil && !slices.ContainsFunc(listed, func(i godo.Image) bool { return i.ID == image.ID }))
	tagged, _, err := s.client.Images.ListByTag(s.ctx, tag, nil)
	s.is("image-deleted-not-by-tag", true, err == nil && len(tagged) == 0)
}

// imageTransfer does what Terraform's custom_image does for each region after the first: it starts a transfer, waits
// for `completed_at` of its action, and compares the image's regions.
func (s *suite) imageTransfer(id int) {
	for _, region := range []string{"ams3", "sgp1"} {
		action, response, err := s.client.ImageActions.Transfer(s.ctx, id, &godo.ActionRequest{"type": "transfer", "region": region})
		if !s.runs("image-transfer-"+region, err) {
			return
		}
		s.is("image-transfer-201-"+region, http.StatusCreated, status(response))
		ended, _, err := s.client.Actions.Get(s.ctx, action.ID)
		s.is("image-transfer-ended-"+region, true,
			err == nil && ended.CompletedAt != nil && ended.Status == godo.ActionCompleted && regionSlug(*ended) == region)
	}
	if image, _, err := s.client.Images.GetByID(s.ctx, id); s.runs("image-transferred", err) {
		s.is("image-transfer-regions", "lon1 ams3 sgp1", strings.Join(image.Regions, " "))
	}
	if actions, _, err := s.imageActions(id); s.runs("image-actions-after-transfers", err) {
		s.is("image-actions-three", 3, len(actions))
		s.is("image-actions-newest-first", "sgp1", regionSlug(actions[0]))
	}
	_, _, err := s.client.ImageActions.Transfer(s.ctx, id, &godo.ActionRequest{"type": "transfer", "region": "mars1"})
	s.refused("image-transfer-nowhere", http.StatusUnprocessableEntity, "region", err)
}

func (s *suite) imageAction(id int) {
	actions, _, err := s.imageActions(id)
	if !s.runs("image-actions", err) {
		return
	}
	s.is("image-actions-one", 1, len(actions))
	if len(actions) == 0 {
		return
	}
	action := actions[0]
	s.is("image-action-fields", fmt.Sprintf("completed image %d lon1 lon1", id),
		fmt.Sprintf("%s %s %d %s %s", action.Status, action.ResourceType, action.ResourceID, regionSlug(action), action.RegionSlug))
	s.is("image-action-times", true, action.StartedAt != nil && action.CompletedAt != nil && !action.CompletedAt.Before(action.StartedAt.Time))
	same, _, err := s.client.ImageActions.Get(s.ctx, id, action.ID)
	s.is("image-action-get", true, err == nil && same.ID == action.ID && same.Type == action.Type)
	same, _, err = s.client.Actions.Get(s.ctx, action.ID)
	s.is("action-get", true, err == nil && same.ResourceID == id)
	_, _, err = s.client.ImageActions.Get(s.ctx, id, 999999999)
	s.refused("image-action-unknown", notFound, "could not be found", err)
}

func regionSlug(action godo.Action) string {
	if action.Region == nil {
		return "none"
	}
	return action.Region.Slug
}

func (s *suite) imageLists(id int, tag string) {
	holds := func(images []godo.Image) bool {
		return slices.ContainsFunc(images, func(i godo.Image) bool { return i.ID == id })
	}
	user, response, err := s.client.Images.ListUser(s.ctx, &godo.ListOptions{PerPage: 200})
	s.is("image-list-user", true, err == nil && holds(user) && response.Meta != nil && response.Meta.Total >= len(user))
	s.is("image-list-user-private", true, !slices.ContainsFunc(user, func(i godo.Image) bool { return i.Public }))
	tagged, response, err := s.client.Images.ListByTag(s.ctx, tag, nil)
	s.is("image-list-by-tag", true, err == nil && len(tagged) == 1 && holds(tagged) && response.Meta != nil && response.Meta.Total == 1)
	none, _, err := s.client.Images.ListByTag(s.ctx, "no-such-tag-"+s.run, nil)
	s.is("image-list-by-unknown-tag", true, err == nil && len(none) == 0)
	applications, _, err := s.client.Images.ListApplication(s.ctx, nil)
	s.is("image-list-application", true, err == nil && len(applications) == 0)
	distributions, _, err := s.client.Images.ListDistribution(s.ctx, nil)
	s.is("image-list-distribution", true, err == nil && len(distributions) == 0)
	_, _, err = s.client.Images.GetBySlug(s.ctx, "no-such-slug-"+s.run)
	s.refused("image-by-unknown-slug", notFound, "could not be found", err)
}

func (s *suite) imageTags(id int) {
	name := "godo-late-" + s.run
	resources := []godo.Resource{{ID: strconv.Itoa(id), Type: godo.ImageResourceType}}
	_, _, err := s.client.Tags.Create(s.ctx, &godo.TagCreateRequest{Name: name})
	s.runs("tag-create", err)
	_, err = s.client.Tags.TagResources(s.ctx, name, &godo.TagResourcesRequest{Resources: resources})
	s.runs("tag-image", err)
	tag, _, err := s.client.Tags.Get(s.ctx, name)
	if s.runs("tag-get", err) {
		s.is("tag-counts", "1 1 0", fmt.Sprintf("%d %d %d", tag.Resources.Count, tag.Resources.Images.Count, tag.Resources.Droplets.Count))
		s.like("tag-last-uri", fmt.Sprintf("^%s/v2/images/%d$", strings.TrimRight(os.Getenv("CISTERN_URL"), "/"), id), tag.Resources.LastTaggedURI)
	}
	_, err = s.client.Tags.UntagResources(s.ctx, name, &godo.UntagResourcesRequest{Resources: resources})
	s.runs("untag-image", err)
	images, _, err := s.client.Images.ListByTag(s.ctx, name, nil)
	s.is("untagged-not-listed", true, err == nil && len(images) == 0)
	_, err = s.client.Tags.Delete(s.ctx, name)
	s.runs("tag-delete", err)
}

// failingImage imports what is no disk: it ends as `deleted`, with a reason, and can still be read.
func (s *suite) failingImage() {
	image, _, err := s.client.Images.Create(s.ctx, &godo.CustomImageCreateRequest{Name: "godo-bad-" + s.run, Url: s.badURL, Region: "nyc3"})
	if !s.runs("bad-image-create", err) {
		return
	}
	image = s.settled(image.ID)
	if image == nil {
		return
	}
	s.is("bad-image-deleted", "deleted", image.Status)
	s.like("bad-image-reason", `\w+ \w+ \w+`, image.ErrorMessage)
	actions, _, err := s.imageActions(image.ID)
	if s.runs("bad-image-actions", err) && len(actions) > 0 {
		s.is("bad-image-action", "errored", actions[0].Status)
		s.is("bad-image-action-ended", true, actions[0].CompletedAt != nil)
	}
	tombstone, response, err := s.client.Images.GetByID(s.ctx, image.ID)
	s.is("bad-image-tombstone", true, err == nil && status(response) == http.StatusOK && tombstone.ErrorMessage == image.ErrorMessage)
	_, err = s.client.Images.Delete(s.ctx, image.ID)
	s.refused("bad-image-delete", http.StatusUnprocessableEntity, "Can not delete an already deleted image", err)
	_, _, err = s.client.Images.Update(s.ctx, image.ID, &godo.ImageUpdateRequest{Name: "x"})
	s.is("bad-image-update-refused", true, err != nil)
}

func (s *suite) refusals() {
	create := func(name string, status int, pattern string, request godo.CustomImageCreateRequest) {
		_, _, err := s.client.Images.Create(s.ctx, &request)
		s.refused(name, status, pattern, err)
	}
	create("create-without-name", 422, "(?i)name", godo.CustomImageCreateRequest{Url: s.imageURL, Region: "nyc3"})
	create("create-without-region", 422, "(?i)region", godo.CustomImageCreateRequest{Name: "x", Url: s.imageURL})
	create("create-unknown-region", 422, "(?i)region", godo.CustomImageCreateRequest{Name: "x", Url: s.imageURL, Region: "mars1"})
	create("create-without-url", 422, "(?i)url", godo.CustomImageCreateRequest{Name: "x", Region: "nyc3"})
	create("create-bad-tag", 422, "(?i)tag", godo.CustomImageCreateRequest{Name: "x", Url: s.imageURL, Region: "nyc3", Tags: []string{"no spaces"}})
	_, _, err := s.client.Images.GetByID(s.ctx, 999999999)
	s.refused("image-unknown", notFound, "could not be found", err)
	_, _, err = s.client.Actions.Get(s.ctx, 999999999)
	s.refused("action-unknown", notFound, "could not be found", err)
	_, _, err = s.client.Tags.List(s.ctx, &godo.ListOptions{PerPage: 201})
	s.refused("per-page-over-200", 422, "per_page", err)
	stranger, err := newClient(os.Getenv("CISTERN_URL"), "dop_v1_"+strings.Repeat("0", 64))
	if err != nil {
		s.fail("stranger", "a client", err)
		return
	}
	_, _, err = stranger.Account.Get(s.ctx)
	s.refused("wrong-token", http.StatusUnauthorized, "^Unable to authenticate you", err)
}
