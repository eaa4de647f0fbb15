package main

import (
	"fmt"
	"net/http"

	"github.com/digitalocean/godo"
)

func (s *suite) projects() {
	before, _, err := s.client.Projects.GetDefault(s.ctx)
	if !s.runs("project-default", err) {
		return
	}
	s.is("project-default-flag", true, before.IsDefault)
	project, response, err := s.client.Projects.Create(s.ctx, &godo.CreateProjectRequest{
		Name: "godo-" + s.run, Purpose: "Service or API", Description: "first", Environment: "Staging",
	})
	if !s.runs("project-create", err) {
		return
	}
	s.is("project-create-201", http.StatusCreated, status(response))
	s.is("project-owner", true, project.OwnerUUID != "" && project.OwnerID > 0)

	// A patch of one field leaves the others alone.
	patched, _, err := s.client.Projects.Update(s.ctx, project.ID, &godo.UpdateProjectRequest{Description: "second"})
	if s.runs("project-patch", err) {
		s.is("project-patch-one-field", godo.Project{
			ID: project.ID, OwnerUUID: project.OwnerUUID, OwnerID: project.OwnerID, Name: "godo-" + s.run,
			Description: "second", Purpose: "Service or API", Environment: "Staging",
			CreatedAt: project.CreatedAt, UpdatedAt: patched.UpdatedAt,
		}, *patched)
	}
	_, _, err = s.client.Projects.Update(s.ctx, project.ID, &godo.UpdateProjectRequest{Environment: "Moon"})
	s.refused("project-patch-bad-environment", http.StatusUnprocessableEntity, "(?i)environment", err)
	s.projectDefault(before, project)

	list, response, err := s.client.Projects.List(s.ctx, &godo.ListOptions{Page: 1, PerPage: 200})
	if s.runs("project-list", err) {
		s.is("project-list-total", true, response.Meta != nil && response.Meta.Total == len(list))
	}
	resources, response, err := s.client.Projects.ListResources(s.ctx, project.ID, nil)
	if s.runs("project-resources", err) {
		s.is("project-resources-empty", true, len(resources) == 0 && response.Meta != nil && response.Meta.Total == 0)
	}
	assigned, _, err := s.client.Projects.AssignResources(s.ctx, project.ID, "do:volume:00000000-0000-4000-8000-000000000000")
	if s.runs("project-assign-unknown", err) && len(assigned) == 1 {
		s.is("project-assign-unknown-status", "not_found", assigned[0].Status)
	}
	response, err = s.client.Projects.Delete(s.ctx, project.ID)
	s.runs("project-delete", err)
	s.is("project-delete-204", http.StatusNoContent, status(response))
	_, _, err = s.client.Projects.Get(s.ctx, project.ID)
	s.refused("project-gone", notFound, "could not be found", err)
	_, _, err = s.client.Projects.Get(s.ctx, "00000000-0000-4000-8000-000000000000")
	s.refused("project-unknown", notFound, "could not be found", err)
}

// projectDefault moves the default there and back.
func (s *suite) projectDefault(before, project *godo.Project) {
	moved, _, err := s.client.Projects.Update(s.ctx, project.ID, &godo.UpdateProjectRequest{IsDefault: true})
	if !s.runs("project-make-default", err) {
		return
	}
	s.is("project-is-default", true, moved.IsDefault)
	old, _, err := s.client.Projects.Get(s.ctx, before.ID)
	s.is("project-was-default", true, err == nil && !old.IsDefault)
	patched, _, err := s.client.Projects.Update(s.ctx, "default", &godo.UpdateProjectRequest{Description: "third"})
	s.is("project-patch-default", true, err == nil && patched.ID == project.ID && patched.Description == "third")
	// godo has PATCH only; PUT wants every field.
	put := func(body map[string]any) (godo.Project, error) {
		var answer struct {
			Project godo.Project `json:"project"`
		}
		request, err := s.client.NewRequest(s.ctx, http.MethodPut, "v2/projects/default", body)
		if err == nil {
			_, err = s.client.Do(s.ctx, request, &answer)
		}
		return answer.Project, err
	}
	whole := map[string]any{
		"name": "put-" + s.run, "description": "fourth", "purpose": "Service or API", "environment": "Production", "is_default": true,
	}
	replaced, err := put(whole)
	s.is("project-put-default", "put-"+s.run+" fourth Production true "+project.ID+" <nil>",
		fmt.Sprintf("%s %s %s %v %s %v", replaced.Name, replaced.Description, replaced.Environment, replaced.IsDefault, replaced.ID, err))
	delete(whole, "purpose")
	_, err = put(whole)
	s.refused("project-put-default-in-part", http.StatusUnprocessableEntity, "(?i)purpose", err)
	_, _, err = s.client.Projects.Update(s.ctx, before.ID, &godo.UpdateProjectRequest{IsDefault: true})
	s.runs("project-default-back", err)
}
