CREATE DATABASE IF NOT EXISTS openedx CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;
CREATE USER IF NOT EXISTS 'openedx'@'%' IDENTIFIED BY 'secret-mysq-98cbafc7dcdb5f9033835b1b';
ALTER USER 'openedx'@'%' IDENTIFIED BY 'secret-mysq-98cbafc7dcdb5f9033835b1b';
GRANT ALL ON openedx.* TO 'openedx'@'%';
