@echo off
rem Installs the requirements into the folder env next to this file. Running it again verifies and repairs them.
rem
rem   install.bat          the requirements of the program
rem   install.bat --cpu    continue even if torch cannot use the NVIDIA GPU
rem   install.bat --quick  do nothing if the requirements have not changed since the last installation (used by start.bat)
setlocal
cd /d "%~dp0"
set "PYTHONUTF8=1"
set "OPTIONS="
set "QUICK="

:arguments
if "%~1"=="" goto check
if /i "%~1"=="--cpu" set "OPTIONS=--cpu" & shift & goto arguments
if /i "%~1"=="--quick" set "QUICK=yes" & shift & goto arguments
echo install.bat: unknown option %1 (known: --cpu --quick)
exit /b 2

:check
if not exist "env\Scripts\python.exe" goto make
"env\Scripts\python.exe" -m acestep.system.installed same requirements.txt
if errorlevel 1 goto packages
if defined QUICK exit /b 0
"env\Scripts\python.exe" -m acestep.system.installed verify %OPTIONS% requirements.txt
if errorlevel 1 goto packages
echo Everything is installed. Start with start.bat
exit /b 0

:make
echo Creating the environment env
if exist "env\pyvenv.cfg" rmdir /s /q env
where uv >nul 2>nul
if errorlevel 1 goto make_with_python
uv venv --quiet --python ">=3.11,<3.14" env
if errorlevel 1 goto failed
goto packages

:make_with_python
set "PY="
call :try py -3.11
call :try py -3.12
call :try py -3.13
call :try python
if not defined PY goto no_python
%PY% -m venv env
if errorlevel 1 goto failed

:packages
rem uv finds the build of torch that fits the NVIDIA driver; the default one of Windows has no CUDA.
set "UV=uv"
where uv >nul 2>nul
if not errorlevel 1 goto have_uv
"env\Scripts\python.exe" -m pip install --disable-pip-version-check --quiet uv
if errorlevel 1 goto failed
set "UV=env\Scripts\uv.exe"
:have_uv
set "BACKEND="
nvidia-smi >nul 2>nul
if not errorlevel 1 set "BACKEND=--torch-backend=auto"
echo Installing packages, several GB the first time
"%UV%" pip install --python "env\Scripts\python.exe" %BACKEND% -r requirements.txt
if errorlevel 1 goto failed
"env\Scripts\python.exe" -m acestep.system.installed verify --full %OPTIONS% requirements.txt
if errorlevel 1 goto failed
echo Installed. Start with start.bat
exit /b 0

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
echo.
echo Installation failed, see the messages above. Fix the problem and run install.bat again.
exit /b 1
