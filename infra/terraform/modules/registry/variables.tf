variable "name" {
  type = string
}

variable "force_destroy" {
  type = bool
}
