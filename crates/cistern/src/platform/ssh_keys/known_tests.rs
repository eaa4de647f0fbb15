//! Made with `ssh-keygen -t TYPE`; the fingerprints are what `ssh-keygen -l -E md5` prints for them.

/// A key of every usual type with its fingerprint.
#[rustfmt::skip]
pub const KEYS: [(&str, &str); 9] = [
    ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILzBOqMN564/xlzTRVkHWJr21yxef0TU+yTAO0dYrQ1q a b",
        "be:08:36:f8:fd:2d:29:03:f7:c9:b3:05:cf:36:df:c8"),
    ("ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBGhrMtkSBJw7xlEEANdNbBok60/IzgcQXPALD3UQuCi8jpPEra9c6ILmwzJtJLOOXFlh2RX9NDEvdGtTAuVREwg= a b",
        "53:9b:29:bc:4c:02:ae:f1:5e:1b:35:15:b7:9a:ad:af"),
    ("ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBOui76xFUpX3iUdjBBlFzUEJTUo1g+o4cMM4EflyDTHlmK5eRi0A2YjEYSpOQ8ENDtJ6sWKkAcJGCu8rxxS/8iTryL8Hht1xIt701nveSn9DJpI/NzbN3AC0QvH2l4mFxw== a b",
        "e6:d0:9e:b8:a4:fe:17:4e:bd:1a:e4:e0:51:e8:df:4f"),
    ("ecdsa-sha2-nistp521 AAAAE2VjZHNhLXNoYTItbmlzdHA1MjEAAAAIbmlzdHA1MjEAAACFBAAh58wFQECRJEmtYq3/UU38duPfE5ERCEsfNYdYWB3MB84xEwCa26VW0ZJnSQrQ6t1A1COls1j9A/5vozmgkTpbBgAvNy4kG/xR0Rf1BkXSjNnfEQ3QRmA46Z6Z7KmC7P88OQ/EXghGlgE1lqw3iIS+S2C76axOCr7zwLJdF6HTfxz9OQ== a b",
        "03:50:ee:f7:57:cc:e7:4d:e9:4a:6a:f8:5c:5d:24:fb"),
    ("ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQCl6FkG1qduYnSXdHh3X0n5HZSLjNtaxAXnh0kVxOLteX7+2AbJSbO8tjgTZGLH8SQ9/Qz1qb4Hue5tYU7dmKJyiODGVIiqHSNZ5JTdX8hTaDNHxrwuwGQlPDhdCj85IlBuh7JTnjCFr27bwTqSHVsI9lub0DiTGdyr+hkO+KDD7Q== a b",
        "98:19:95:fa:2a:d2:3c:cf:0e:01:37:89:33:56:d6:b9"),
    ("ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQC7oAWL7c2dQxuo0ASQEOA6b1fYgoenJ7CAWmnk/BBGEgCK3mSvYdlSVMRgUT499G7Gtn4P6tVhK1OnK4jUIiabddN20w4LtT7ZHreW19OI1HYTdd9K8thMikinvtqrLxuzsUvQ0WVvQ59ND27m5MhrUya/Seq3J4FhTq59uddYrzAf3f7NXXbUNPGiM3QVDYwtzQZ+6p94+2Jg/9wy+inNLXl8tODSOYpKGGu3+ydTSLDYaQHoZUIFx/zLacAQ3NZU5dx0dlflHDity1Q3pxsO4U5lGZ8rAk4b1eJB+QsDmwETQ4eU3rMDvItebVfsxRUQ/UYZ0Q9D2kcR99AthlqL a b",
        "ba:c5:01:af:b7:08:f8:06:a1:58:f5:14:00:b4:29:91"),
    ("ssh-dss AAAAB3NzaC1kc3MAAACBAKVU479F6JRq79hlqH0yxJdTxSPKB9yVa2JiV034nqgObLR//roNU/6I9CNRjkujb9aBR+UjfURV1FxiMRfeUCVzfr8oy3KwC6MjS+0uG4hxfJsSqGVx5XbipfDA/50X1jfyMJlq8XZEfso6otHH6W63xQtiJtZKGwj9dpv9CkiVAAAAFQDMaNjTvH5txQemqRzVvJH3ythbKQAAAIBV1y/8b6sQcAA2/epFmzMJt4Y6x6MmT6JI4QcAewe3GVI/VCIx6eeN6+qzFdePjDBUi3aoK3NQBYKQ37p08X0uj3vLIcW7KtTRF2zbSQyqhOd2xEIRwagfaPfziyEnk/HNGem4Yg8tRWsLleccsD8lEKEARTDSvz8MAIkQ74D5CgAAAIAKGCW+KXxryz2LnYHfvuYSBkjOh0bXhenOfm2wIA+0qxUGn30SS6jAsj7TUpOTnmf8jvEuf+P9ZiMnKNlHV5CqhTh8kipTnhmSFnW0xsyzBZiEngyEV6nVfGxZ0fcQtycGtTPtfX45yprWT/BSFwt0bzAIbk/s7sU8FZqkMYbtNw== a b",
        "3a:ff:24:0e:e8:16:25:56:57:1a:da:cf:cc:56:f7:96"),
    ("sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAILzBOqMN564/xlzTRVkHWJr21yxef0TU+yTAO0dYrQ1qAAAABHNzaDo=",
        "1c:06:76:f9:30:b1:6e:19:06:16:b3:6e:d6:e0:60:54"),
    ("sk-ecdsa-sha2-nistp256@openssh.com AAAAInNrLWVjZHNhLXNoYTItbmlzdHAyNTZAb3BlbnNzaC5jb20AAAAIbmlzdHAyNTYAAABBBGhrMtkSBJw7xlEEANdNbBok60/IzgcQXPALD3UQuCi8jpPEra9c6ILmwzJtJLOOXFlh2RX9NDEvdGtTAuVREwgAAAAEc3NoOg==",
        "7e:83:55:f4:2f:36:c0:1b:14:3d:62:77:e7:18:e1:00"),
];

/// A certificate, which is not a key.
#[rustfmt::skip]
pub const CERTIFICATE: &str = "ecdsa-sha2-nistp256-cert-v01@openssh.com AAAAKGVjZHNhLXNoYTItbmlzdHAyNTYtY2VydC12MDFAb3BlbnNzaC5jb20AAAAgwRL2vYtWfd/dcGFt9xQshgYMuah0lR6ah38lmHszO8wAAAAIbmlzdHAyNTYAAABBBGhrMtkSBJw7xlEEANdNbBok60/IzgcQXPALD3UQuCi8jpPEra9c6ILmwzJtJLOOXFlh2RX9NDEvdGtTAuVREwgAAAAAAAAAAAAAAAEAAAABeAAAAAAAAAAAAAAAAP//////////AAAAAAAAAIIAAAAVcGVybWl0LVgxMS1mb3J3YXJkaW5nAAAAAAAAABdwZXJtaXQtYWdlbnQtZm9yd2FyZGluZwAAAAAAAAAWcGVybWl0LXBvcnQtZm9yd2FyZGluZwAAAAAAAAAKcGVybWl0LXB0eQAAAAAAAAAOcGVybWl0LXVzZXItcmMAAAAAAAAAAAAAADMAAAALc3NoLWVkMjU1MTkAAAAgvME6ow3nrj/GXNNFWQdYmvbXLF5/RNT7JMA7R1itDWoAAABTAAAAC3NzaC1lZDI1NTE5AAAAQI6v3wkz5i9uZk3jBYa60ncmXMTJ2f01lZLPTf33+PZRx7SMutG1IBGaMb7Z8RmwsojkneiOkQlGKvmW/DsbDAE= a b";

/// RSA of 768 bits.
#[rustfmt::skip]
pub const TOO_SHORT: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAYQDBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcE=";
