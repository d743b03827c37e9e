@echo off
rem Installs the requirements into the folder env next to this file. Running it again verifies and repairs them.
rem
rem   install.bat                 the requirements of the program
rem   install.bat --dev           also the requirements of the tests
rem   install.bat --backend NAME  this build of PyTorch, e.g. cpu or cu126, instead of the one that fits the GPU
rem   install.bat --cpu           continue even if PyTorch cannot use the GPU
rem   install.bat --quick         do nothing if the requirements have not changed since the last time (for start.bat)
setlocal
cd /d "%~dp0"
set "PYTHONUTF8=1"
set "FILES=requirements.txt"
set "LIST=-r requirements.txt"
set "OPTIONS="
set "BACKEND=auto"
set "QUICK="

:arguments
if "%~1"=="" goto check
if /i "%~1"=="--dev" goto dev
if /i "%~1"=="--backend" goto backend
if /i "%~1"=="--cpu" set "OPTIONS=--cpu" & shift & goto arguments
if /i "%~1"=="--quick" set "QUICK=yes" & shift & goto arguments
echo install.bat: unknown option %1 (known: --dev --backend --cpu --quick)
exit /b 2

:dev
set "FILES=requirements.txt requirements-dev.txt"
set "LIST=-r requirements.txt -r requirements-dev.txt"
shift
goto arguments

:backend
if "%~2"=="" echo install.bat: --backend needs the name of a build, such as cpu or cu126
if "%~2"=="" exit /b 2
set "BACKEND=%~2"
shift
shift
goto arguments

:check
if not exist "env\Scripts\python.exe" goto create
if not "%BACKEND%"=="auto" goto select
"env\Scripts\python.exe" -m acestep.system.installed same %FILES%
if errorlevel 1 goto select
if defined QUICK exit /b 0
"env\Scripts\python.exe" -m acestep.system.installed verify %OPTIONS% %FILES%
if errorlevel 1 goto select
echo Everything is installed. Start with start.bat
exit /b 0

:create
call :environment
if errorlevel 1 goto failed

:select
rem Asks about a GPU of Intel. Prints the build, the tool that finds it, and whether to keep the installed one.
set "BUILD="
for /f "tokens=1-3" %%A in ('env\Scripts\python.exe -m acestep.system.select_build --backend %BACKEND% %OPTIONS%') do (
  set "BUILD=%%A"
  set "TOOL=%%B"
  set "ACTION=%%C"
)
if not defined BUILD goto failed
if "%BACKEND%"=="cpu" set "OPTIONS=--cpu"
if not "%ACTION%"=="replace" goto packages
rem A new environment, because libraries of two builds would overwrite each other.
if exist env.previous rmdir /s /q env
if exist env ren env env.previous
if exist env echo The folder env is in use. Close the program first.
if exist env goto failed
call :environment
if errorlevel 1 goto failed

:packages
rem Only uv knows where the builds of PyTorch are; the default one of Windows has no CUDA.
set "INSTALLER=uv pip install --python env\Scripts\python.exe"
where uv >nul 2>nul
if not errorlevel 1 goto install
set "INSTALLER=env\Scripts\python.exe -m pip install --disable-pip-version-check"
env\Scripts\python.exe -m pip --version >nul 2>nul
if errorlevel 1 env\Scripts\python.exe -m ensurepip --upgrade >nul
if "%TOOL%"=="any" goto install
echo Installing uv, which finds the builds of PyTorch
%INSTALLER% --quiet uv
if errorlevel 1 goto failed
set "INSTALLER=env\Scripts\uv.exe pip install --python env\Scripts\python.exe"

:install
if "%TOOL%"=="uv" set "INSTALLER=%INSTALLER% --torch-backend=%BUILD%"
echo Installing packages, several GB the first time
%INSTALLER% %LIST%
if errorlevel 1 goto failed
"env\Scripts\python.exe" -m acestep.system.installed verify --full %OPTIONS% %FILES%
if errorlevel 1 goto failed
if exist env.previous rmdir /s /q env.previous
echo Installed. Start with start.bat
exit /b 0

:environment
echo Creating the environment env
if exist "env\pyvenv.cfg" rmdir /s /q env
where uv >nul 2>nul
if errorlevel 1 goto environment_with_python
uv venv --quiet --python ">=3.11,<3.14" env
exit /b %errorlevel%

:environment_with_python
set "PY="
call :try py -3.11
call :try py -3.12
call :try py -3.13
call :try python
if not defined PY goto no_python
%PY% -m venv env
exit /b %errorlevel%

:try
if defined PY exit /b 0
%* -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))" >nul 2>nul
if not errorlevel 1 set "PY=%*"
exit /b 0

:no_python
echo.
echo Python 3.11, 3.12 or 3.13 is required and was not found.
echo Install it from python.org with "Add to PATH" ticked, or install uv, and run install.bat again.
exit /b 1

:failed
if not exist env.previous goto report
if exist env rmdir /s /q env
ren env.previous env
echo The previous environment was restored.

:report
echo.
echo Installation failed, see the messages above. Fix the problem and run install.bat again.
exit /b 1
